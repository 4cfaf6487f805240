"""LoRA and its relatives: read from files, combined, and turned into changed weights."""
