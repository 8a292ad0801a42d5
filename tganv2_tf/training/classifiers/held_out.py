"""Splits labelled records into training and validation sets."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Collection, Mapping

import tensorflow as tf

from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.reading import RecordPartition
from tganv2_tf.data.records import NO_LABEL, parse_record, source_group
from tganv2_tf.errors import ConfigError

HELD_OUT_FRACTION = 0.1  # of the source groups of each class


def read_labels(flag: str, manifest: Manifest, folder: str, num_frames: int) -> dict[str, int]:
    """Reads the labels of all records, without decoding frames, so that errors appear before training.

    Args:
      flag: flag of the folder, for error messages.
      manifest: manifest of the data set in `folder`.
      folder: folder of the shards.
      num_frames: frames per clip.
    Returns:
      Class numbers by record id, of the records that are long enough for a clip.
    Raises:
      ConfigError: fewer than two classes, a record without a label, or no record that is long enough.
      tf.errors.OpError: a shard is damaged.
    """
    classes = len(manifest.labels)
    if classes < 2:
        raise ConfigError(f"--{flag}={folder}: {classes} classes; valid: labelled videos of at least two classes")

    def label_and_length(path: tf.Tensor, number: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parsed = parse_record(record)
        return parsed["video_id"], parsed["label"], parsed["num_frames"]

    plain = tf.autograph.experimental.do_not_convert(label_and_length)
    records = RecordPartition.of(manifest, folder).read().map(plain, num_parallel_calls=tf.data.AUTOTUNE)
    longest, labels = 0, {}
    for video_id, label, length in records.as_numpy_iterator():
        longest = max(longest, length)
        if not 0 <= label < classes:
            shown = "no label" if label == NO_LABEL else f"the label {label}"
            raise ConfigError(f"--{flag}={folder}: {video_id.decode()} has {shown}; valid: 0 to {classes - 1}")
        if length >= num_frames:
            labels[video_id.decode()] = int(label)
    if not labels:
        raise ConfigError(f"--{flag}={folder}: the longest video has {longest} frames; a clip needs {num_frames}")
    return labels


def hold_out(labels: Mapping[str, int]) -> dict[str, int]:
    """Selects about a tenth of the source groups of each class for validation, by a hash of their names.

    Clips of a group are near duplicates, so a group is never split between training and validation. At least one group
    is held out per class, but none of a class that has only one.

    Args:
      labels: class numbers by record id.
    Returns:
      Class numbers by record id, of the selected records.
    """
    groups: dict[int, dict[str, list[str]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for record_id, label in labels.items():
        groups[label][source_group(record_id)].append(record_id)
    chosen: dict[str, int] = {}
    for label, class_groups in groups.items():
        count = max(1, round(HELD_OUT_FRACTION * len(class_groups))) if len(class_groups) > 1 else 0
        shuffled = sorted(class_groups, key=lambda group: hashlib.sha256(group.encode()).digest())
        chosen.update((record_id, label) for group in shuffled[:count] for record_id in class_groups[group])
    return chosen


def id_filter(record_ids: Collection[str], wanted: bool = True) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a tf.data predicate of a record id, string []: whether it is one of these (`wanted`), or is not."""
    ids = tf.constant(sorted(record_ids), tf.string)
    return lambda record_id: tf.reduce_any(record_id == ids) == wanted
