"""TGANv2 (Saito & Saito, 2018) in Keras / TensorFlow 2."""

import sys

if not (3, 9) <= sys.version_info[:2] <= (3, 11):
    # TensorFlow 2.15, the last release line with tensorflow-io and tensorflow-addons, has wheels for these only.
    raise SystemExit("tganv2_tf needs Python 3.9, 3.10 or 3.11; this is Python {}.{}.".format(*sys.version_info))

__version__ = "0.1.0"
