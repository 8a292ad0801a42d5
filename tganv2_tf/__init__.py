"""TGANv2 (Saito & Saito, 2018) in Keras / TensorFlow 2."""

from tganv2_tf import lanes

if lanes.python_fault():
    raise SystemExit(lanes.python_fault())
lanes.prepare()

__version__ = "0.1.0"
