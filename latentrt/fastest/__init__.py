"""Which precision on which backend draws fastest on this machine, among those whose pictures are good enough."""
