"""Shared fixtures: two logical CPUs, so that strategies with two replicas can be created, and tiny configs."""

from __future__ import annotations

import gc
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the tests are written for CPUs
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # tests run in parallel, on networks too small for several threads

import pytest

from tganv2_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from tganv2_tf.runtime.machine import withholds

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY_MODEL = {
    "resolution": 16,
    "num_frames": 4,
    "z_dim": 4,
    "frame_strides": (2,),
    "batch_strides": (2,),
    "lstm_channels": 4,
    "up_channels": (4, 4, 4, 4),
    "discriminator_channels": (4, 8),
}
SHALLOW = {"discriminator_channels": (4,)}  # where the depth of the discriminators does not matter
ONE_LEVEL = {"frame_strides": (), "batch_strides": (), "up_channels": (4, 4, 4), **SHALLOW}
TINY_FLAGS = [
    f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
    for name, value in {**TINY_MODEL, **SHALLOW}.items()
]


# Files that take long start first, so that none is left over at the end.
SLOWEST = ["docs", "ray", "ray_training", "multi_worker"]  # of the slow tests
SLOWEST += ["systems", "commands", "resumption", "training_commands", "tganv2", "gradients", "evaluate"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files; pytest-xdist hands them out in this order."""
    first = {f"test_{name}.py": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))


def pytest_collection_finish() -> None:
    """Excludes TensorFlow and the test modules from garbage collection, which otherwise visits them again and again."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Creates two logical CPUs before the first test module uses TensorFlow."""
    import tensorflow as tf

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs and children

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def two_replicas() -> Any:
    """MirroredStrategy on two logical CPUs; a single one, as a second would reuse its collective keys."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])


# TensorFlow would crash: `machine.withholds`
needs_bfloat16 = pytest.mark.skipif(withholds("bfloat16"), reason="ONEDNN_MAX_CPU_ISA hides bfloat16")
needs_float16 = pytest.mark.skipif(withholds("float16"), reason="ONEDNN_MAX_CPU_ISA hides float16")
PRECISIONS = [
    pytest.param("float32"),
    pytest.param("mixed_bfloat16", marks=needs_bfloat16),
    pytest.param("mixed_float16", marks=needs_float16),
]


def tiny_config(model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **train: Any) -> Config:
    """Returns a config of two levels, 16 pixels and 4 frames, with the given changes."""
    return Config(
        ModelConfig(**{**TINY_MODEL, **(model or {})}),
        DataConfig(**(data or {})),
        TrainConfig(**{"global_batch_size": 4, "train_steps": 4, **train}),
    )


def run_command(module: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module arguments` as a user would, from the repository's root."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 300, **options}
    return subprocess.run(command, **options)
