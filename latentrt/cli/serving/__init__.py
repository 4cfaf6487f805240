"""The commands that draw what others ask for: the server and the file of orders."""
