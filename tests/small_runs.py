"""Runs with initial weights, for tests of commands that read a run."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import tensorflow as tf

from data_prep import shapes
from tests.conftest import tiny_config
from tganv2_tf.config import Config
from tganv2_tf.models.generator import Generator
from tganv2_tf.runs import CHECKPOINT_DIR, record_config


def write_run(config: Config, folder: pathlib.Path, class_names: Sequence[str] = (), fps: float = 0.0) -> None:
    """Writes what other commands than `train` read of a run: its config and a checkpoint of step 1."""
    record_config(config, class_names, str(folder), fps)
    checkpoint = tf.train.Checkpoint(ema_generator=Generator(config.model), step=tf.Variable(1, dtype=tf.int64))
    tf.train.CheckpointManager(checkpoint, str(folder / CHECKPOINT_DIR), 1).save(1)


def write_demo_generator(folder: pathlib.Path) -> None:
    """Writes a run with the classes and the clips of examples/demo_generator, but two levels and few channels."""
    classes = {"conditional": True, "num_classes": len(shapes.CLASSES)}
    few = {"lstm_channels": 2, "up_channels": (2, 2, 2, 2), "discriminator_channels": (2, 2)}
    write_run(tiny_config({"resolution": 32, "num_frames": 16, **few, **classes}), folder, shapes.CLASSES)
