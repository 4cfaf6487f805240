"""The server and rendering on Ray."""
