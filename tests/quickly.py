"""Runs a command in a quarter of the time, for tests of its inputs and outputs.

TensorFlow's functions run eagerly, which is faster if tracing takes longer than one or two calls, and worker processes
are forked. `fork_command("tests.quickly", module, *arguments)` otherwise works like `fork_command(module, *arguments)`.
With `--replicas=2` before the module, one CPU acts as two devices. With `--only_steps` only training steps run eagerly,
for several workers, which cannot gather anything without a graph.
"""

from __future__ import annotations

import multiprocessing
import runpy
import sys

import tensorflow as tf

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "--only_steps":
        tf.keras.Model.run_eagerly = True  # otherwise a property that `compile` sets
        sys.argv = sys.argv[1:]
    else:
        tf.config.run_functions_eagerly(True)
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment]
    if sys.argv[0] == "--replicas=2":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
