"""Classifiers of one's own: a C3D trained on labelled shards, and the one file that holds it.

The file is an .npz with the arrays of `c3d.C3D.to_arrays` and a text, `metadata`, in JSON: the network's shape, the
names of the classes, the accuracy on the test set, and all that the weights were made of.

Training is plain: cross entropy, Adam whose step size falls linearly to 0, dropout of one half in fc6 and fc7, windows
of 16 frames at random places, and no augmentation unless mirroring is asked for. Frames go in as they are, in [-1, 1],
without a mean. All random numbers come from the seed; on a CPU, the same command gives the same bits.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tganv2_tf import __version__
from tganv2_tf.config import DataConfig
from tganv2_tf.data.lengths import describe_too_short
from tganv2_tf.data.manifest import MANIFEST_FILE, WHAT_TO_DO, Manifest, checksum
from tganv2_tf.data.pipeline import labelled_clips, normalize
from tganv2_tf.data.reading import Share, find_damage
from tganv2_tf.data.records import NO_LABEL, parse_record
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.evaluation.c3d import C3D, NUM_FRAMES, C3DConfig
from tganv2_tf.files import Path, read_npz, whole_file, write_atomically

SIZES = {
    "small": C3DConfig(side=32, channels=(8, 16, 32, 32, 64, 64, 128, 128), units=(256, 256)),
    "full": C3DConfig(),
}
METADATA = "metadata"
FORMAT_VERSION = 1
WRITER = "tganv2_tf.train_classifier"
TEST_WINDOWS = 4  # of each record, at places that are always the same
UNFINISHED = ".unfinished"
RECIPE_FILE = "recipe.json"
CLIP_NORM = 1.0  # of the gradient: without it, twice the default step size can end all learning at the start
BAR_STEPS = 50  # over which the bar's loss and accuracy are means


def train(
    data_dir: str,
    test_data_dir: str,
    output: str,
    size: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    flip: bool,
    seed: int,
    checkpoint_every_steps: int,
) -> int:
    """Trains a classifier, or goes on with it, measures it, and writes it; a finished one is left alone.

    Args:
      data_dir: folder of the shards to train on.
      test_data_dir: folder of the shards to measure the accuracy on.
      output: the .npz; what is needed to go on is in `OUTPUT.unfinished` until the file is there.
      size: a name in `SIZES`.
      steps: updates.
      batch_size: clips an update.
      learning_rate: Adam's step size at first.
      flip: mirror half of the clips.
      seed: of the initial weights, the order of the data, the windows and the dropout.
      checkpoint_every_steps: updates between two saved states; 0 = only the last one.
    Returns:
      The exit status: 0, or 128 + the signal that stopped the training.
    Raises:
      ConfigError: data without labels, of other classes or without a clip, or an output that something else made.
      UserError: damaged data or files, or a loss that is no number any more.
    """
    data = DataConfig(data_dir, flip=flip)
    test_data = DataConfig(test_data_dir, flip=False, windows_per_record=TEST_WINDOWS)
    manifest, test_manifest = Manifest.load(data_dir), Manifest.load(test_data_dir)
    recipe = {
        "size": size,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "flip": flip,
        "seed": seed,
        "train_manifest": checksum(os.path.join(data_dir, MANIFEST_FILE)),
        "test_manifest": checksum(os.path.join(test_data_dir, MANIFEST_FILE)),
    }
    if os.path.exists(output):
        metadata = read_metadata(output)
        _require_same(recipe, metadata["recipe"], output)
        print(f"{output}: there already, made by the same command. {_summary(metadata)}")
        return 0
    folder = pathlib.Path(output + UNFINISHED)
    if (folder / RECIPE_FILE).exists():
        _require_same(recipe, json.loads((folder / RECIPE_FILE).read_text()), str(folder))
    with _explained_errors((manifest, data_dir), (test_manifest, test_data_dir)):
        _check_data("data_dir", manifest, data_dir)
        _check_data("test_data_dir", test_manifest, test_data_dir)
        if test_manifest.labels != manifest.labels:
            raise ConfigError(f"--test_data_dir={test_data_dir}: its classes are not those of {data_dir}")
        for of_data, its_manifest in ((data, manifest), (test_data, test_manifest)):
            too_short = describe_too_short(its_manifest, of_data, NUM_FRAMES)
            if too_short:
                logging.warning("%s.", too_short)

        write_atomically(folder / RECIPE_FILE, json.dumps(recipe))  # makes the folder, or fails now if it must
        tf.keras.utils.set_random_seed(seed)
        network = C3D(dataclasses.replace(SIZES[size], num_classes=len(manifest.labels)), labels=tuple(manifest.labels))
        weights = f"{network.count_params():,}"
        logging.info("%d videos, %d classes, %s weights.", manifest.num_videos, network.num_classes, weights)
        schedule = tf.keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, 0.0)
        trainer = Trainer(network, tf.keras.optimizers.Adam(schedule, global_clipnorm=CLIP_NORM), seed)
        clips = labelled_clips(manifest, data, NUM_FRAMES, manifest.height, seed, endless=True)
        batches = clips.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        stopped_by = trainer.run(batches, steps, folder, checkpoint_every_steps)
        if stopped_by:
            logging.info("Stopped at step %d and saved; the same command goes on.", trainer.step.numpy())
            return 128 + stopped_by
        correct = classified_correctly(network, test_manifest, test_data, batch_size)
    metadata = {
        "format": FORMAT_VERSION,
        "shape": dataclasses.asdict(network.config),
        "labels": manifest.labels,
        "test_accuracy": float(np.mean(correct)),
        "test_clips": len(correct),
        "test_videos": test_manifest.num_videos,
        "recipe": recipe,
        "versions": {"tganv2_tf": __version__, "tensorflow": tf.__version__, "numpy": np.__version__},
    }
    save_classifier(network, metadata, output)
    shutil.rmtree(folder)
    print(f"{output}: {_summary(metadata)}")
    return 0


@contextlib.contextmanager
def _explained_errors(*data_sets: tuple[Manifest, str]) -> Iterator[None]:
    """Looks for the cause of TensorFlow's errors in the data sets, and makes one line of it."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError("out of memory; lower --batch_size") from error
    except tf.errors.OpError as error:
        damage = next(filter(None, (find_damage(manifest, folder) for manifest, folder in data_sets)), None)
        if damage is None:
            raise
        raise UserError(f"{damage}; {WHAT_TO_DO}") from error


class Trainer:
    """Updates of a network, whose whole state can be saved between any two of them.

    Attributes:
      network: what is trained.
      step: updates so far.
    """

    def __init__(self, network: C3D, optimizer: tf.keras.optimizers.Optimizer, seed: int) -> None:
        self.network, self.optimizer, self.seed = network, optimizer, seed
        self.step = tf.Variable(0, dtype=tf.int64)
        optimizer.build(network.trainable_variables)

    @tf.function
    def update(self, clips: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One update with uint8 [N, 16, H, W, 3] and int64 [N]; its cross entropy and accuracy, float32 []."""
        seed = tf.stack([self.seed, self.step])
        with tf.GradientTape() as tape:
            logits = self.network(normalize(clips), dropout_seed=seed)["fc8"]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        self.optimizer.minimize(loss, self.network.trainable_variables, tape)
        self.step.assign_add(1)
        return loss, tf.reduce_mean(tf.cast(tf.argmax(logits, 1) == labels, tf.float32))

    def run(self, batches: tf.data.Dataset, steps: int, folder: pathlib.Path, save_every: int) -> int:
        """Goes on from the state in `folder`, if there is one, to update `steps`.

        The state is that of network, optimiser and data, so that an interruption changes nothing in what follows.

        Args:
          batches: endless, uint8 [N, 16, H, W, 3] and int64 [N].
          steps: updates of the whole training.
          folder: of the state, which is saved there at the end as well.
          save_every: updates between two states; 0 = only the last one.
        Returns:
          The signal (SIGTERM, Ctrl-C) that ended it before, or 0.
        Raises:
          UserError: the state is damaged or cannot be saved, or the loss is not finite.
          tf.errors.OpError: damaged data, or memory is short.
        """
        iterator = iter(batches)
        state = tf.train.Checkpoint(network=self.network, optimizer=self.optimizer, step=self.step, iterator=iterator)
        manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1, step_counter=self.step)
        if manager.latest_checkpoint:
            _restore(state, manager.latest_checkpoint)
            logging.info("Going on from step %d.", self.step.numpy())
        recent: collections.deque[tuple[float, float]] = collections.deque(maxlen=BAR_STEPS)
        first = int(self.step.numpy())
        interval = 0.5 if sys.stderr.isatty() else 30  # seconds; a log file would grow
        bar = tqdm(total=steps, initial=first, unit="step", mininterval=interval, maxinterval=interval)
        with _signals() as came, bar:
            for step in range(first + 1, steps + 1):
                loss, accuracy = (float(value) for value in self.update(*next(iterator)))
                if not math.isfinite(loss):
                    raise UserError(f"step {step}: the loss is {loss}; lower --learning_rate and remove {folder}")
                recent.append((loss, accuracy))
                means = np.mean(recent, axis=0)
                bar.set_postfix_str(f"loss {means[0]:.3f}, accuracy {means[1]:.1%}", refresh=False)
                bar.update()
                stopped_by = came[0] if came else 0
                if (save_every and step % save_every == 0) or step == steps or stopped_by:
                    try:
                        manager.save(step)
                    except tf.errors.OpError as error:
                        raise UserError(f"{folder}: step {step} cannot be saved: {error.message}") from error
                if stopped_by:
                    return stopped_by
        return 0


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and Ctrl-C in place of ending the process; a second one ends it after all."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        give_back()

    def give_back() -> None:
        for each, handler in handlers.items():
            signal.signal(each, handler)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        give_back()


def _restore(state: tf.train.Checkpoint, path: str) -> None:
    try:
        state.restore(path).assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:  # the last of a file that breaks off
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: cannot be read: {reason}; remove its folder to start anew") from error


def _require_same(recipe: dict[str, Any], other: dict[str, Any], where: str) -> None:
    differences = [f"{key} {other.get(key)} (now {value})" for key, value in recipe.items() if other.get(key) != value]
    if differences:
        raise ConfigError(
            f"{where}: of another training: {', '.join(differences)}; remove it or choose another --output"
        )


def _check_data(flag: str, manifest: Manifest, folder: str) -> None:
    """Reads all records, without decoding their frames, so that nothing comes up after hours.

    Raises:
      ConfigError: fewer than two classes, a record without a label, or no record that is long enough.
      tf.errors.OpError: damage.
    """
    classes = len(manifest.labels)
    if classes < 2:
        raise ConfigError(f"--{flag}={folder}: {classes} classes; valid: labelled videos of two classes at least")

    def label_and_length(path: tf.Tensor, number: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parsed = parse_record(record)
        return parsed["video_id"], parsed["label"], parsed["num_frames"]

    records = Share.of(manifest, folder).read().map(label_and_length, num_parallel_calls=tf.data.AUTOTUNE)
    longest = 0
    for video_id, label, length in records.as_numpy_iterator():
        longest = max(longest, length)
        if not 0 <= label < classes:
            shown = "no label" if label == NO_LABEL else f"the label {label}"
            raise ConfigError(f"--{flag}={folder}: {video_id.decode()} has {shown}; valid: 0 to {classes - 1}")
    if longest < NUM_FRAMES:
        raise ConfigError(f"--{flag}={folder}: the longest video has {longest} frames; a clip takes {NUM_FRAMES}")


def classified_correctly(network: C3D, manifest: Manifest, data: DataConfig, batch_size: int) -> np.ndarray:
    """Whether each test clip is classified correctly, bool [clips]."""
    classify = tf.function(lambda clips: tf.argmax(network(normalize(clips))["fc8"], 1), reduce_retracing=True)
    clips = labelled_clips(manifest, data, NUM_FRAMES, manifest.height, seed=0)
    return np.concatenate([classify(frames) == labels for frames, labels in clips.batch(batch_size)])


def _summary(metadata: dict[str, Any]) -> str:
    return (
        f"{metadata['test_accuracy']:.1%} of {metadata['test_clips']} clips of {metadata['test_videos']} test videos "
        f"classified correctly ({len(metadata['labels'])} classes)"
    )


def save_classifier(network: C3D, metadata: dict[str, Any], path: Path) -> None:
    """Writes a network without a mean and its metadata; the file appears when it is whole.

    Raises:
      OSError: it cannot be written.
    """
    arrays = {**network.to_arrays(), METADATA: np.array(json.dumps(metadata))}
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a classifier.

    Returns:
      `format`; `shape`, the fields of `C3DConfig`; `labels`, names in the order of the probabilities; `test_accuracy`,
      the share of the `test_clips` clips of `test_videos` videos that are classified correctly; `recipe`, the options
      and the checksums of the two manifests that it was made of; `versions`.
    Raises:
      UserError: no such file, or none that `train` has written.
    """
    return _metadata(read_npz(path, WRITER), path)


def _metadata(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    if METADATA not in arrays:
        raise UserError(
            f"{path}: {METADATA!r} is missing; valid: a file that {WRITER} wrote, or the authors' with --c3d_mean"
        )
    try:
        metadata = json.loads(str(arrays[METADATA]))
        version = metadata["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: {METADATA!r} cannot be read: {error}") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: its format is {version}; this code reads {FORMAT_VERSION}")
    return metadata


def load_classifier(path: Path) -> C3D:
    """A classifier that `train` has written.

    Raises:
      UserError: no such file, none of ours, or a damaged one.
    """
    arrays = read_npz(path, WRITER)
    metadata = _metadata(arrays, path)
    shape: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in metadata["shape"].items()}
    network = C3D(C3DConfig(**shape), labels=tuple(metadata["labels"]), name="classifier")
    network.assign_arrays(arrays, path)
    return network
