"""MoCoGAN (Tulyakov, Liu, Yang & Kautz, arXiv 1707.04993): a still content, and a recurrence over frames for motion."""
