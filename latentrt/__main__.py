"""``python -m latentrt`` is the ``latentrt`` command."""

from latentrt.cli import main

main()
