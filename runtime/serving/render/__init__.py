"""Files of orders, drawn into a folder: each picture under the digest of all that decides it."""
