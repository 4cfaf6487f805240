"""The keywords of a call, declared by group; their names elsewhere; how the command line spells them."""
