"""What is added to a U-Net, and where: its structure, and the names of the inputs."""
