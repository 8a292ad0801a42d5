"""Reads generators from checkpoints, and writes them without the variables needed only for training."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.errors import UserError
from tganv2_tf.runs import CHECKPOINT_DIR, CONFIG_FILE, Run, checkpoint_files, record_config, write_checkpoint_state
from tganv2_tf.systems import model_class


def load_generator(run: Run) -> tuple[tf.keras.Model, int]:
    """Returns the averaged generator of a run's checkpoint, and the step.

    Raises:
      UserError: The run or its checkpoint does not exist or is damaged.
    """
    config = run.config
    if run.checkpoint is None:
        raise UserError(f"{run.name} has no checkpoint yet; train it for at least --checkpoint_every_steps steps")
    generator = model_class(config.system).make_generator(config.model)
    step = tf.Variable(0, dtype=tf.int64)
    with readable(run.checkpoint) as local:
        read(local, ema_generator=generator, step=step)
    return generator, int(step)


def save_generator(generator: tf.keras.Model, run: Run, step: int, folder: str | os.PathLike[str]) -> None:
    """Writes only an averaged generator, as a run that can be used for generation.

    Training cannot be resumed from it, because discriminators and optimisers are omitted.

    Args:
      generator, step: Results of `load_generator`.
      run: The run whose config, class names and frame rate are copied.
      folder: Target folder, created atomically.
    Raises:
      UserError: The folder exists already.
    """
    if storage.exists(folder):
        raise UserError(f"{folder} already exists; choose a new folder")
    if storage.is_remote(folder):
        with tempfile.TemporaryDirectory() as local:
            save_generator(generator, run, step, os.path.join(local, "run"))
            storage.copy_folder(os.path.join(local, "run"), os.fspath(folder), CONFIG_FILE)
        return
    config, target = run.config, pathlib.Path(folder)
    # Removes local paths: those of the run, its data and its classifier.
    train = dataclasses.replace(config.train, model_dir="", init_from="", eval_every_steps=0)
    data, scores = dataclasses.replace(config.data, data_dir=""), dataclasses.replace(config.eval, cache_dir="")
    scores = dataclasses.replace(scores, classifier="", c3d_mean="")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent)
    try:
        record_config(Config(config.model, data, train, scores), run.class_names, temporary, run.fps)
        weights = tf.train.Checkpoint(ema_generator=generator, step=tf.Variable(step, dtype=tf.int64))
        prefix = weights.write(os.path.join(temporary, CHECKPOINT_DIR, f"ckpt-{step}"))
        write_checkpoint_state(prefix)
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def readable(prefix: str) -> Iterator[str]:
    """Yields the prefix of a checkpoint on the local disk. A remote one is copied; the copy is removed on exit.

    Raises:
      UserError: The checkpoint is damaged or of another model. Errors of `tf.train` in the block are converted to this.
      OSError: The server is not available.
    """
    with contextlib.ExitStack() as stack:
        local = prefix
        if storage.is_remote(prefix):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            local = os.path.join(folder, os.path.basename(prefix))
            for file in checkpoint_files(prefix):
                storage.copy(file, os.path.join(folder, os.path.basename(file)))
        try:
            yield local
        except (tf.errors.OpError, AssertionError, ValueError, IndexError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            raise UserError(f"{prefix}: the checkpoint cannot be read: {text}") from error


def read(prefix: str, **objects: Any) -> None:
    """Reads all variables of these objects from a local checkpoint, which may contain more; see `readable`."""
    tf.train.Checkpoint(**objects).read(prefix).expect_partial().assert_existing_objects_matched()
