"""Checks without a GPU that TensorFlow has a GPU kernel for every operation of a training step.

The wheel for Linux contains the kernels of GPUs, so that its registry lists them on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from tests.conftest import PRECISIONS, tiny_config
from tests.test_systems import TINY
from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, TrainConfig
from tganv2_tf.systems import SYSTEMS
from tganv2_tf.training.loop import make_model

DEVICES = ("GPU", "DEFAULT")  # DEFAULT: the same kernel on every device
# Without kernels, as they are only functions' inputs and outputs, or are replaced before a graph runs.
STRUCTURE = {"_Arg", "_Retval", "PartitionedCall", "StatefulPartitionedCall", "StatelessIf", "If", "NoOp"}

pytestmark = pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="this TensorFlow is built without CUDA")


def nodes_of_a_step(config: Config) -> Iterator[Any]:
    """Yields the nodes of the graph of a training step, and of the functions that it calls."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = make_model(config)
    clips = config.train.global_batch_size
    sizes = [
        (1, level.batch_size(clips), level.frames, level.size, level.size, 3) for level in config.model.pyramid.levels
    ]
    signature = (
        tuple(tf.TensorSpec(size) for size in sizes),
        tf.TensorSpec([1, clips], tf.int64),
        tf.TensorSpec([1], tf.int64),
    )
    step = tf.function(lambda batch: strategy.run(model.train_step, (batch,)), autograph=False)
    graph = step.get_concrete_function(signature).graph.as_graph_def()
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def runs_on_a_gpu(node: Any) -> bool:
    """Returns whether the registry has a kernel of the operation, with the node's types, for a GPU."""

    def fits(kernel: Any) -> bool:
        return kernel.device_type in DEVICES and all(
            node.attr[each.name].type in each.allowed_values.list.type for each in kernel.constraint
        )

    return any(fits(kernel) for kernel in kernels.get_registered_kernels_for_op(node.op).kernel)


def without_gpu(config: Config) -> set[str]:
    """Returns the operations of a step that have to run elsewhere."""
    return {node.op for node in nodes_of_a_step(config) if node.op not in STRUCTURE and not runs_on_a_gpu(node)}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_runs_on_a_gpu_as_a_whole(precision: str) -> None:
    assert without_gpu(tiny_config(mixed_precision=precision)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "tganv2"])
def test_a_step_of_another_system_runs_on_a_gpu_as_a_whole(system: str) -> None:
    flags = [f"--system={system}", *TINY[system], "--global_batch_size=4"]
    assert without_gpu(Config(*cli.parse(flags, MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig))) == set()


def test_an_operation_without_a_kernel_is_found() -> None:
    with tf.Graph().as_default() as graph:
        tf.io.decode_jpeg(tf.compat.v1.placeholder(tf.string, []))
        tf.matmul(*[tf.compat.v1.placeholder(tf.uint8, [2, 2])] * 2)
    assert [node.op for node in graph.as_graph_def().node if not runs_on_a_gpu(node)] == ["DecodeJpeg", "MatMul"]
