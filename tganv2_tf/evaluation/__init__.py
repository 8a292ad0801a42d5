"""Metrics of generated videos, and the networks (C3D, I3D) that they are computed with."""
