"""``make gpu``: what there is to find out on a machine with an NVIDIA GPU, stage by stage, offline."""
