"""Tests, and modules that tests run as commands."""

import tganv2_tf  # noqa: F401 (sets the variables that TensorFlow reads when it is imported)
