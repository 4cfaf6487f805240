"""``python -m latentrt`` is the ``latentrt`` command."""

from latentrt.cli.app import main

main()
