"""Benchmarks and stress tests: `python -m benchmarks.PACKAGE.MODULE`."""

import tganv2_tf  # noqa: F401 (sets the variables that TensorFlow reads when it is imported)
