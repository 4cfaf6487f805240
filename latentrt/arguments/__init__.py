"""What a command line names beside a model: LoRAs, nets and adapters with their pictures, regions."""
