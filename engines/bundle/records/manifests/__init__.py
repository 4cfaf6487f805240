"""The files that say what a bundle is: ``bundle.json`` and ``engine.json``."""
