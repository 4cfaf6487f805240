"""Pictures enlarged by a network, a tile at a time."""
