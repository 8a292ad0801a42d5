"""Trains a custom C3D classifier on labelled shards.

Training uses cross entropy, Adam, dropout of 0.5 in fc6 and fc7, random windows of 16 frames, and optional mirroring.
Frames are in [-1, 1], without mean subtraction; the initial weights are fitted to them (`C3D.fit_to`). Training stops
when the accuracy on held-out videos no longer rises, and keeps the weights with the highest. All random numbers derive
from the seed; on a CPU, results are bit-identical.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf import __version__
from tganv2_tf.config import DataConfig
from tganv2_tf.data.damage import find_damage
from tganv2_tf.data.labelled import labelled_clips
from tganv2_tf.data.lengths import describe_too_short
from tganv2_tf.data.manifest import MANIFEST_FILE, REMEDY, Manifest, checksum
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.evaluation.c3d import C3D, NUM_FRAMES, C3DConfig
from tganv2_tf.evaluation.classifier import (
    FORMAT_VERSION,
    accuracy_summary,
    read_metadata,
    reliability_warning,
    save_classifier,
)
from tganv2_tf.storage.files import write_atomically
from tganv2_tf.training.classifiers.examination import ClipEvaluator
from tganv2_tf.training.classifiers.held_out import hold_out, id_filter, read_labels
from tganv2_tf.training.classifiers.trainer import Trainer

SIZES = {
    "small": C3DConfig(side=32, channels=(8, 16, 32, 32, 64, 64, 128, 128), units=(256, 256)),
    "full": C3DConfig(),
}
UNFINISHED = ".unfinished"
RECIPE_FILE = "recipe.json"
CLIP_NORM = 1.0  # of the gradient: without it, training can fail from the start at twice the default learning rate
VALIDATION_STEPS = 50  # minimum between two validations; one epoch if that is longer


def train(
    data_dir: str,
    test_data_dir: str,
    output: str,
    size: str,
    steps: int,
    patience: int,
    batch_size: int,
    learning_rate: float,
    flip: bool,
    seed: int,
    checkpoint_every_steps: int,
) -> int:
    """Trains (or resumes training) a classifier, tests it, and writes it. An existing output is kept.

    Args:
      data_dir: folder of the training shards; about a tenth of the videos is held out.
      test_data_dir: folder of the test shards; empty = test on the held-out videos.
      output: the .npz to write; `OUTPUT.unfinished` holds the training state until then.
      size: a name in `SIZES`.
      steps: maximum number of updates.
      patience: stop after this many validations without a higher accuracy; 0 = run all `steps`.
      batch_size: clips per update.
      learning_rate: Adam's learning rate.
      flip: mirror half of the clips.
      seed: for the initial weights, the order of the data, the windows and the dropout.
      checkpoint_every_steps: updates between two checkpoints; 0 = only the last one.
    Returns:
      The exit status: 0, or 128 + the signal that stopped the training.
    Raises:
      ConfigError: the data have no labels or no video that is long enough; the test set has other classes; or the
        output belongs to another training.
      UserError: data or files are damaged, or the loss is not finite.
    """
    data_sets = [(Manifest.load(folder), folder) for folder in (data_dir, test_data_dir) if folder]
    manifest = data_sets[0][0]
    recipe = {
        "size": size,
        "steps": steps,
        "patience": patience,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "flip": flip,
        "seed": seed,
        "train_manifest": checksum(os.path.join(data_dir, MANIFEST_FILE)),
        "test_manifest": test_data_dir and checksum(os.path.join(test_data_dir, MANIFEST_FILE)),
    }
    if os.path.exists(output):
        metadata = read_metadata(output)
        _require_same(recipe, metadata["recipe"], output)
        print(f"{output}: already exists, written by the same command. {accuracy_summary(metadata)}")
        _warn(metadata, output)
        return 0
    folder = pathlib.Path(output + UNFINISHED)
    if (folder / RECIPE_FILE).exists():
        _require_same(recipe, json.loads((folder / RECIPE_FILE).read_text()), str(folder))
    with _explained_errors(*data_sets):
        labels = read_labels("data_dir", *data_sets[0], NUM_FRAMES)
        held_out = hold_out(labels)
        evaluated = [(*data_sets[0], held_out)] if held_out else []
        if test_data_dir:
            evaluated.append((*data_sets[1], read_labels("test_data_dir", *data_sets[1], NUM_FRAMES)))
            _compare(data_sets)
        for its_manifest, its_folder in data_sets:
            too_short = describe_too_short(its_manifest, DataConfig(its_folder), NUM_FRAMES)
            if too_short:
                logging.warning("%s.", too_short)
        if not evaluated:
            raise ConfigError(
                f"--data_dir={data_dir}: no class has videos of two source groups, so none can be held out; specify "
                "test videos with --test_data_dir"
            )

        write_atomically(folder / RECIPE_FILE, json.dumps(recipe))  # creates the folder, so that errors appear early
        tf.keras.utils.set_random_seed(seed)
        network = C3D(dataclasses.replace(SIZES[size], num_classes=len(manifest.labels)), labels=tuple(manifest.labels))
        weights = f"{network.count_params():,}"
        logging.info("%d videos, %d classes, %s weights.", manifest.num_videos, network.num_classes, weights)
        clips = labelled_clips(
            manifest,
            DataConfig(data_dir, flip=flip),
            NUM_FRAMES,
            manifest.height,
            seed,
            endless=True,
            keep=id_filter(held_out, wanted=False),
        )
        batches = clips.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        # With a test set, the reported accuracy is on videos that were not used for early stopping.
        evaluators = [ClipEvaluator(network, *which, batch_size) for which in evaluated]
        validation, test = evaluators[0], evaluators[-1]
        optimizer = tf.keras.optimizers.Adam(learning_rate, global_clipnorm=CLIP_NORM)
        validate_every = max(VALIDATION_STEPS, (len(labels) - len(held_out)) // batch_size)
        trainer = Trainer(network, optimizer, seed, validation, validate_every, patience)
        stopped_by = trainer.run(batches, steps, folder, checkpoint_every_steps)
        step, best = int(trainer.step.numpy()), trainer.best
        if stopped_by:
            logging.info("Stopped at step %d and saved; rerun the same command to resume.", step)
            return 128 + stopped_by
        _log_end(trainer)
        best.restore()
        result = test.result()
    metadata = {
        "format": FORMAT_VERSION,
        "shape": dataclasses.asdict(network.config),
        "labels": manifest.labels,
        "test_accuracy": result.accuracy,
        "test_clips": result.clips,
        "test_videos": test.videos,
        "chance": test.chance,
        "held_out_accuracy": float(best.accuracy.numpy()),
        "held_out_videos": validation.videos,
        "tested_on_held_out": len(evaluated) == 1,
        "steps": step,
        "best_step": int(best.step.numpy()),
        "recipe": recipe,
        "versions": {"tganv2_tf": __version__, "tensorflow": tf.__version__, "numpy": np.__version__},
    }
    save_classifier(network, metadata, output)
    shutil.rmtree(folder)
    print(f"{output}: {accuracy_summary(metadata)}")
    _warn(metadata, output)
    return 0


def _compare(data_sets: list[tuple[Manifest, str]]) -> None:
    """Raises ConfigError if training and test sets differ in their classes; warns of shards that are in both."""
    (manifest, data_dir), (test_manifest, test_data_dir) = data_sets
    if test_manifest.labels != manifest.labels:
        raise ConfigError(f"--test_data_dir={test_data_dir}: its classes differ from those of {data_dir}")
    if {shard.checksum for shard in manifest.shards} & {shard.checksum for shard in test_manifest.shards}:
        logging.warning("--test_data_dir=%s: contains shards of %s; accuracy is too high.", test_data_dir, data_dir)


def _warn(metadata: dict[str, Any], path: str) -> None:
    reason = reliability_warning(metadata)
    if reason:
        logging.warning(
            "%s: %s. Check the videos and their labels (python -m data_prep.verify shows them), and train on more "
            "videos, with more --steps or another --learning_rate.",
            path,
            reason,
        )


def _log_end(trainer: Trainer) -> None:
    step, best, videos = int(trainer.step.numpy()), trainer.best, trainer.validation.videos
    what = f"accuracy on {videos} held-out videos {best.accuracy.numpy():.1%} at step {best.step.numpy()}"
    if trainer.has_ended:
        logging.info("Stopped early at step %d: %s, no higher since.", step, what)
    else:
        logging.info("Finished all %d steps: %s.", step, what)


@contextlib.contextmanager
def _explained_errors(*data_sets: tuple[Manifest, str]) -> Iterator[None]:
    """Turns TensorFlow's errors into a one-line UserError if the data sets are damaged or memory is short."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError("out of memory; lower --batch_size") from error
    except tf.errors.OpError as error:
        damage = next(filter(None, (find_damage(manifest, folder) for manifest, folder in data_sets)), None)
        if damage is None:
            raise
        raise UserError(f"{damage}; {REMEDY}") from error


def _require_same(recipe: dict[str, Any], other: dict[str, Any], where: str) -> None:
    differences = [f"{key} {other.get(key)} (now {value})" for key, value in recipe.items() if other.get(key) != value]
    if differences:
        raise ConfigError(
            f"{where}: belongs to another training: {', '.join(differences)}; remove it or choose another --output"
        )
