"""TGANv2 (Saito & Saito, arXiv 1811.09245). Its networks and its step are in `tganv2_tf/models/`."""
