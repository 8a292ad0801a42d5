"""What it costs and what it brings: commands that measure, `python -m benchmarks.X`."""
