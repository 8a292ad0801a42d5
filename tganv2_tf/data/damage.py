"""Damaged records: find their cause, name them, or skip and count them."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf.config import DataConfig
from tganv2_tf.data.inspection import DamagedError, read_frames, read_record
from tganv2_tf.data.manifest import REMEDY, Manifest
from tganv2_tf.data.reading import RecordPartition
from tganv2_tf.data.records import decode_frame, parse_record

PARALLEL_CALLS = 16
MAX_EPOCHS_WITHOUT_VALID = 20
NO_VALID_RECORDS = "only damaged records"
# TFRecord cannot find the next record after damage.
UNREADABLE = "cannot be read (in a truncated file, neither can later records)"


@tf.autograph.experimental.do_not_convert  # of the functions, which need none; it takes time
def map_or_substitute(
    dataset: tf.data.Dataset, function: Callable[..., Any], substitute: Callable[..., Any]
) -> tf.data.Dataset:
    """Returns `dataset.map(function)`, using `substitute`, of the same types, for elements on which it fails."""

    def one(*element: Any) -> tf.data.Dataset:
        alone = tf.data.Dataset.from_tensors(element)
        return alone.map(function).ignore_errors().concatenate(alone.map(substitute)).take(1)

    # Only in a nested data set can tf.data catch an error and still associate it with its element.
    return dataset.interleave(one, cycle_length=PARALLEL_CALLS, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


class SkippedRecords:
    """Skips damaged clips, and logs each damaged record once, with their number so far.

    Args:
      epoch: If any clip is valid, about one in `epoch` is. The data set fails after 20 * `epoch` consecutive damaged
        clips.
    """

    def __init__(self, epoch: int) -> None:
        self._max_in_a_row = MAX_EPOCHS_WITHOUT_VALID * epoch
        self._seen: set[tuple[bytes, int]] = set()

    def keep_valid(self, clips: tf.data.Dataset) -> tf.data.Dataset:
        """Filters elements (path string [], number int64 [], fault string [], empty if valid, clip) to valid clips.

        If there are no valid clips, the data set raises an error instead of searching indefinitely.
        """

        def count(in_a_row: tf.Tensor, element: Any) -> Any:
            any_valid = tf.debugging.Assert(in_a_row < self._max_in_a_row, [NO_VALID_RECORDS])

            def report() -> tf.Tensor:
                return tf.ensure_shape(tf.numpy_function(self._report, [*element[:3], in_a_row], tf.int64), [])

            with tf.control_dependencies([any_valid]):
                return tf.cond(element[2] == "", lambda: tf.zeros([], tf.int64), report), element

        counted = clips.scan(tf.zeros([], tf.int64), count)
        sound = counted.filter(lambda path, number, fault, clip: fault == "")
        return sound.map(lambda path, number, fault, clip: clip)

    def _report(self, path: bytes, number: np.int64, fault: bytes, in_a_row: np.int64) -> np.int64:
        if (path, int(number)) not in self._seen:
            self._seen.add((path, int(number)))
            words = (path.decode(), number, fault.decode(), len(self._seen))
            logging.warning("%s: record %d %s; skipped. Damaged records so far: %d.", *words)
        return in_a_row + 1


def find_damage(manifest: Manifest, folder: str) -> str | None:
    """Searches all records in parallel and decodes all frames, which takes minutes for a data set like UCF101.

    Returns:
      `FILE: record NUMBER`, from 0, and the fault of a damaged record; None if there are none.
    """
    size = (manifest.height, manifest.width)

    def check(path: tf.Tensor, number: tf.Tensor, record: tf.Tensor) -> Any:
        frames = parse_record(record)["frames"]
        shapes = tf.map_fn(lambda frame: tf.shape(decode_frame(frame)), frames, fn_output_signature=tf.int32)
        return path, number, record, tf.reduce_all(shapes == [*size, 3])

    records = RecordPartition.of(manifest, folder).read(tolerant=True)
    for path, number, record, sound in map_or_substitute(
        records, check, lambda *element: (*element, False)
    ).as_numpy_iterator():
        if not sound:
            return damage_message(path, number, record, *size)
    return None


def damage_message(path: bytes, number: int, record: bytes, height: int, width: int) -> str:
    """Returns `FILE: record NUMBER` and the fault of a damaged record from a tolerant `RecordPartition.read`."""
    fault = UNREADABLE
    try:
        if record:
            fault = "was damaged when it was first read"
            collections.deque(read_frames(read_record(record)["frames"], height, width), 0)
    except DamagedError as error:
        fault = f"is damaged: {error}"
    return f"{path.decode()}: record {number} {fault}"


def cause_of_error(error: tf.errors.OpError, manifest: Manifest, data: DataConfig) -> str | None:
    """Returns the fault in the data that caused a TensorFlow error, in one line; None if there is none."""
    if NO_VALID_RECORDS in error.message:
        return f"{data.data_dir}: {NO_VALID_RECORDS} are left; {REMEDY}"
    if data.skip_corrupt_records or not isinstance(error, (tf.errors.DataLossError, tf.errors.InvalidArgumentError)):
        return None
    logging.info("Looking for a damaged record in %s ...", data.data_dir)
    damage = find_damage(manifest, data.data_dir)
    return damage and f"{damage}; {REMEDY}, or skip such records with --skip_corrupt_records"
