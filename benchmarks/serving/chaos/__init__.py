"""Chaos: clients that go, bodies that harm, and servers and renders that are ended in the middle."""
