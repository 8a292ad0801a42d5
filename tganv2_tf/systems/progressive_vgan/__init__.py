"""ProgressiveVGAN (Acharya, Huang, Paudel & Van Gool, arXiv 1810.02419): a GAN that grows in space and time."""
