"""Which labelled records are trained on, and which are held out to see how far training has come."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Collection, Mapping

import tensorflow as tf

from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.reading import Share
from tganv2_tf.data.records import NO_LABEL, parse_record, source_group
from tganv2_tf.errors import ConfigError

SHARE = 0.1  # of the groups of a class


def labels_of(flag: str, manifest: Manifest, folder: str, num_frames: int) -> dict[str, int]:
    """Reads all records, without decoding their frames, so that nothing comes up after hours.

    Args:
      flag: that names the folder, for messages.
      manifest: of the data set in `folder`.
      folder: of the shards.
      num_frames: of a clip.
    Returns:
      Number of the class, by the id of a record, of those that are long enough for a clip.
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
    longest, labels = 0, {}
    for video_id, label, length in records.as_numpy_iterator():
        longest = max(longest, length)
        if not 0 <= label < classes:
            shown = "no label" if label == NO_LABEL else f"the label {label}"
            raise ConfigError(f"--{flag}={folder}: {video_id.decode()} has {shown}; valid: 0 to {classes - 1}")
        if length >= num_frames:
            labels[video_id.decode()] = int(label)
    if not labels:
        raise ConfigError(f"--{flag}={folder}: the longest video has {longest} frames; a clip takes {num_frames}")
    return labels


def hold_out(labels: Mapping[str, int]) -> dict[str, int]:
    """Chooses about a tenth of the source groups of each class, by their names alone.

    Clips of a group look alike, so that with some of them in training the others would be no test of it. Each class of
    two groups or more gives at least one; a class of one group gives none.

    Args:
      labels: number of the class, by the id of a record.
    Returns:
      Those of the chosen records.
    """
    groups: dict[int, dict[str, list[str]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for record_id, label in labels.items():
        groups[label][source_group(record_id)].append(record_id)
    chosen: dict[str, int] = {}
    for label, of_class in groups.items():
        count = max(1, round(SHARE * len(of_class))) if len(of_class) > 1 else 0
        shuffled = sorted(of_class, key=lambda group: hashlib.sha256(group.encode()).digest())
        chosen.update((record_id, label) for group in shuffled[:count] for record_id in of_class[group])
    return chosen


def among(record_ids: Collection[str], wanted: bool = True) -> Callable[[tf.Tensor], tf.Tensor]:
    """Tells, in tf.data, whether a record's id, string [], is one of these; with `wanted` False whether it is not."""
    ids = tf.constant(sorted(record_ids), tf.string)
    return lambda record_id: tf.reduce_any(record_id == ids) == wanted
