"""The explorer: a web page for a generator."""
