"""Where a run computes: the strategy, and how its devices share a batch."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from tganv2_tf.config import Config
from tganv2_tf.errors import ConfigError

LARGE_RESOLUTION = 128  # pixels from which a run without a GPU is a mistake more often than not


def make_strategy(devices: Sequence[str] | None = None) -> tf.distribute.MirroredStrategy:
    """MirroredStrategy on all GPUs of this machine, or on its CPU, or on the devices named."""
    if devices is None:
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [f"/{kind.lower()}:{i}" for i in range(len(tf.config.list_logical_devices(kind)))]
    return tf.distribute.MirroredStrategy(devices)


def per_replica_batch_size(config: Config, num_replicas: int) -> int:
    """N_1 of one replica.

    Raises:
      ConfigError: the replicas cannot share the batch, or a replica's share cannot be halved from level to level.
    """
    divisor = num_replicas * config.model.pyramid.levels[-1].clip_stride
    if config.train.global_batch_size % divisor:
        raise ConfigError(
            f"--global_batch_size={config.train.global_batch_size}: {num_replicas} replicas cannot share it; "
            f"valid: a multiple of {divisor} (replicas x product of --batch_strides)"
        )
    return config.train.global_batch_size // num_replicas


def warn_without_gpu(config: Config) -> None:
    """Says loudly that a full recipe is about to run on a CPU."""
    if config.model.resolution >= LARGE_RESOLUTION and not tf.config.list_logical_devices("GPU"):
        logging.warning(
            "NO GPU FOUND: %dx%d pixels on this CPU will take many seconds a step, and months for a run. "
            "Install requirements-gpu.txt on a machine with a GPU, or try `make demo` first.",
            config.model.resolution,
            config.model.resolution,
        )
