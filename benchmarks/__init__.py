"""What it costs and what it brings: commands that measure, `python -m benchmarks.X`."""

import tganv2_tf  # noqa: F401 (sets the variables that TensorFlow reads when it is imported)
