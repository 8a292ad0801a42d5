"""TGAN (Saito, Matsumoto & Saito, arXiv 1611.06624): Wasserstein GAN with a temporal and an image generator."""
