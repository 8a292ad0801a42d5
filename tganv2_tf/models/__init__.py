"""The networks of TGANv2."""
