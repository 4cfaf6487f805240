"""How a bundle is compared with its model: recorded runs, a photograph, and the gates they pass."""
