"""TGANv2's training; see `tganv2_tf/models/`."""

from tganv2_tf.models.tganv2 import TGANv2 as Model

__all__ = ["Model"]
