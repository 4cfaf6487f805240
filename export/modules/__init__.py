"""One file for each kind of component: its torch module and its graph's inputs and outputs."""
