"""VGAN (Vondrick, Pirsiavash & Torralba, arXiv 1609.02612): a moving foreground over a still background."""
