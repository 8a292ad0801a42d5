"""Hides log messages of TensorFlow that need no action."""

import os
import warnings

from absl import logging

_ADDONS = r"\s*TensorFlow Addons (\(TFA\) has ended development|supports using Python ops)"


def install() -> None:
    """Shows only fatal messages of TensorFlow's C++ code. Must be called before TensorFlow is imported.

    It logs harmless events with level E ("Unable to register cuDNN factory", "remapper failed"), while errors that
    matter are also raised as exceptions. `TF_CPP_MIN_LOG_LEVEL=0` in the environment shows everything.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", _ADDONS, UserWarning)
    # TensorFlow 2.21 logs this for every checkpoint.
    logging.get_absl_logger().addFilter(lambda record: not str(record.msg).startswith("Sharding callback duration"))
