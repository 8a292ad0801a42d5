"""Figures of the paper: cost of each level, and Table 2 on synthetic data."""
