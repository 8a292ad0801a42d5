"""Conversion from and to other implementations."""
