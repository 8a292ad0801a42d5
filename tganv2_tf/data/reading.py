"""Reads records from shards with tf.data: partition among pipelines, resumable order, handling of damaged records.

tf.data stops at the first error and reports neither file nor record, so elements carry both. If damage is tolerated, a
function that fails yields a substitute. This costs 0.25 ms per call; otherwise an error ends the run, and `find_damage`
then searches for its cause.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf import storage
from tganv2_tf.config import DataConfig
from tganv2_tf.data.inspection import DamagedError, read_frames, read_record
from tganv2_tf.data.manifest import WHAT_TO_DO, Manifest
from tganv2_tf.data.records import decode_frame, parse_record
from tganv2_tf.errors import ConfigError

SHARDS_READ_AT_ONCE = 8
ATTEMPTS_AT_ONCE = 16
HOPELESS_EPOCHS = 20
FAIR_SHARDS = 16  # per pipeline
HOPELESS = "only damaged records"
# TFRecord cannot find the next record after damage.
UNREADABLE = "cannot be read (in a file that breaks off, neither can what follows)"


class ShardFile(NamedTuple):
    """A shard, and the index of its first record in the data set."""

    path: str
    num_records: int
    first_record: int


@dataclasses.dataclass(frozen=True)
class Share:
    """The fixed, disjoint part of a data set that one input pipeline reads.

    Attributes:
      files: The shards that it opens.
      num_pipelines: Number of pipelines that share these shards; each reads every `num_pipelines`-th record. 1 if
        whole shards are assigned.
      pipeline: Index of this pipeline, from 0.
    """

    files: list[ShardFile]
    num_pipelines: int = 1
    pipeline: int = 0

    @classmethod
    def of(cls, manifest: Manifest, folder: str, num_pipelines: int = 1, pipeline: int = 0) -> Share:
        """Assigns whole shards to pipelines if the parts are about equal, otherwise single records.

        Raises:
          ConfigError: There are more pipelines than records.
        """
        if manifest.num_records < num_pipelines:
            raise ConfigError(f"{folder}: {manifest.num_records} records are too few for {num_pipelines} workers")
        counts = [shard.num_records for shard in manifest.shards]
        firsts = [0, *itertools.accumulate(counts)]
        files = [ShardFile(*columns) for columns in zip(manifest.shard_paths(folder), counts, firsts)]
        # Uneven shard counts make epochs differ in length between pipelines; with many shards the difference is small.
        if manifest.num_shards % num_pipelines and manifest.num_shards < FAIR_SHARDS * num_pipelines:
            return cls(files, num_pipelines, pipeline)
        return cls(files[pipeline::num_pipelines])

    @property
    def counts(self) -> list[int]:
        """Number of records of each file that this pipeline reads."""
        return [
            len(range((self.pipeline - file.first_record) % self.num_pipelines, file.num_records, self.num_pipelines))
            for file in self.files
        ]

    @property
    def num_records(self) -> int:
        """Number of records per epoch."""
        return sum(self.counts)

    def read(self, tolerant: bool = False) -> tf.data.Dataset:
        """Reads the records once.

        Args:
          tolerant: Whether to yield an empty string for each lost record of a truncated or missing file, instead of
            raising an error.
        Returns:
          Elements of (path string [], number int64 [], from 0 in its file, serialized string []).
        """
        return self._epoch(tf.range(len(self.files)), tf.zeros([], tf.int64), tolerant)

    def read_endlessly(self, seed: int, tolerant: bool = False, first_record: int = 0) -> tf.data.Dataset:
        """Reads the records of `read` indefinitely, with another order of the shards in each epoch.

        Args:
          seed: Seed of the orders.
          tolerant: As in `read`.
          first_record: Number of records of the endless stream to skip. Shards that lie before it in its epoch are not
            opened; only in the shards open at that position are earlier records read.
        """
        counts = self.counts
        epoch, record = divmod(first_record, sum(counts))

        def of_epoch(number: tf.Tensor | int) -> tf.Tensor:
            # Not `Dataset.shuffle`, which also depends on TensorFlow's global seed.
            return tf.argsort(tf.random.stateless_uniform([len(self.files)], tf.stack([seed, number])))

        order = of_epoch(epoch)
        rounds, rest = _rounds([sum(counts[i] for i in lane) for lane in _lanes(order.numpy().tolist())], record)
        begun = self._epoch(order, tf.constant(rounds, tf.int64), tolerant).skip(rest)
        later = tf.data.Dataset.counter(tf.constant(epoch + 1, tf.int64))
        none = tf.zeros([], tf.int64)
        return begun.concatenate(later.flat_map(lambda number: self._epoch(of_epoch(number), none, tolerant)))

    def _epoch(self, order: tf.Tensor, rounds: tf.Tensor, tolerant: bool) -> tf.data.Dataset:
        """Reads all records once. Lanes take turns to yield a record; each lane reads its shards sequentially.

        Args:
          order: Indices of the files, int32; lane i of n has every n-th from the i-th on.
          rounds: Number of records of each lane to skip, int64.
          tolerant: As in `read`.
        """

        remote = storage.is_remote(self.files[0].path)

        def of_shard(path: tf.Tensor, num_records: tf.Tensor, first: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
            if tolerant or remote:
                can_be_opened = tf.ensure_shape(
                    tf.numpy_function(_if_it_opens, [path], tf.string, stateful=False), [None]
                )
            if tolerant:
                readable = tf.data.TFRecordDataset(can_be_opened).ignore_errors()
                rest = tf.data.Dataset.from_tensors(b"").repeat()
            else:
                readable = tf.data.TFRecordDataset(can_be_opened if remote else path)
                rest = tf.data.Dataset.from_tensors(path).map(_ends_early)
            numbered = readable.concatenate(rest).take(num_records).enumerate()
            if self.num_pipelines > 1:
                numbered = numbered.shard(self.num_pipelines, (self.pipeline - first) % self.num_pipelines)
            return numbered.skip(skip).map(lambda number, record: (path, number, record))

        paths, totals, firsts = zip(*self.files)
        columns = (tf.constant(paths), tf.constant(totals, tf.int64), tf.constant(firsts, tf.int64))
        counts = tf.constant(self.counts, tf.int64)
        num_lanes = len(_lanes(self.files))

        def of_lane(lane: tf.Tensor) -> tf.data.Dataset:
            chosen = order[lane::num_lanes]
            before = tf.cumsum(tf.gather(counts, chosen), exclusive=True)
            skips = tf.clip_by_value(rounds - before, 0, tf.gather(counts, chosen))
            shards = tf.data.Dataset.from_tensor_slices(
                (*(tf.gather(column, chosen) for column in columns), skips, tf.gather(counts, chosen))
            )
            unread = shards.filter(lambda *shard: shard[-2] < shard[-1])
            return unread.flat_map(lambda *shard: of_shard(*shard[:-1]))

        return tf.data.Dataset.range(num_lanes, output_type=tf.int32).interleave(
            of_lane, cycle_length=num_lanes, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def _lanes(files: Sequence[Any]) -> list[Sequence[Any]]:
    """Assigns files to lanes, which are read in parallel."""
    num_lanes = min(SHARDS_READ_AT_ONCE, len(files))
    return [files[lane::num_lanes] for lane in range(num_lanes)]


def _rounds(lengths: list[int], record: int) -> tuple[int, int]:
    """Returns the number of complete rounds before a record, and of turns before it in its round, if lanes take turns.

    Args:
      lengths: Number of records in each lane.
      record: Index of the record, from 0 and below the sum of `lengths`.
    """
    rounds, lanes = 0, len(lengths)
    for length in sorted(lengths):
        turns = (length - rounds) * lanes
        if record < turns:
            break
        record -= turns
        rounds, lanes = length, lanes - 1
    return rounds + record // lanes, record % lanes


def _ends_early(path: tf.Tensor) -> tf.Tensor:
    """Returns an op that fails: the shard has fewer records than the manifest says."""
    with tf.control_dependencies([tf.debugging.Assert(False, [tf.strings.join([path, ": it ends early"])])]):
        return tf.constant(b"")


def _if_it_opens(path: bytes) -> np.ndarray:
    """Returns [path], or [path of a local copy] if remote, or [] if the file cannot be opened.

    With `ignore_errors`, tf.data would retry a file that cannot be opened indefinitely.

    Raises:
      OSError: The server of a remote file cannot be reached, so it is unknown whether the file exists.
    """
    if storage.is_remote(path.decode()):
        try:
            return np.array([COPIES.of(path.decode()).encode()])
        except FileNotFoundError:
            return np.array([], "S")
    try:
        with open(path, "rb"):
            return np.array([path])
    except OSError:
        return np.array([], "S")


class Copies:
    """Cache of remote shards on the local disk.

    Without copies, a transient server error would look like a damaged shard, and each epoch would download shards
    again. Least recently used copies are deleted; open files remain readable.
    """

    def __init__(self, number: int) -> None:
        self._number, self._lock = number, threading.Lock()
        self._paths: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def of(self, address: str) -> str:
        """Returns the path of a local copy. Raises OSError if the shard cannot be copied."""
        with self._lock:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="tganv2_tf-shards-")
            if address in self._paths:
                self._paths.move_to_end(address)
                return self._paths[address]
        path = os.path.join(self._folder.name, uuid.uuid4().hex)  # another thread may be copying it too
        storage.copy(address, path)
        with self._lock:
            self._paths[address] = path
            if len(self._paths) > self._number:
                os.remove(self._paths.popitem(last=False)[1])
        return path


COPIES = Copies(4 * SHARDS_READ_AT_ONCE)


def attempt(dataset: tf.data.Dataset, function: Callable[..., Any], substitute: Callable[..., Any]) -> tf.data.Dataset:
    """Returns `dataset.map(function)`, using `substitute`, of the same types, for elements on which it fails."""

    def one(*element: Any) -> tf.data.Dataset:
        alone = tf.data.Dataset.from_tensors(element)
        return alone.map(function).ignore_errors().concatenate(alone.map(substitute)).take(1)

    # Only in a nested data set can tf.data catch an error and still associate it with its element.
    return dataset.interleave(
        one, cycle_length=ATTEMPTS_AT_ONCE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


class SkippedRecords:
    """Skips damaged clips, and logs each damaged record once, with their number so far.

    Args:
      epoch: Number of clips among which about one is valid, if any is. After 20 times as many consecutive damaged clips
        the data set fails.
    """

    def __init__(self, epoch: int) -> None:
        self._patience = HOPELESS_EPOCHS * epoch
        self._seen: set[tuple[bytes, int]] = set()

    def leave_out(self, clips: tf.data.Dataset) -> tf.data.Dataset:
        """Filters elements (path string [], number int64 [], fault string [], empty if valid, clip) to valid clips.

        If there are no valid clips, the data set raises an error instead of searching indefinitely.
        """

        def count(in_a_row: tf.Tensor, element: Any) -> Any:
            hope = tf.debugging.Assert(in_a_row < self._patience, [HOPELESS])

            def report() -> tf.Tensor:
                return tf.ensure_shape(tf.numpy_function(self._report, [*element[:3], in_a_row], tf.int64), [])

            with tf.control_dependencies([hope]):
                return tf.cond(element[2] == "", lambda: tf.zeros([], tf.int64), report), element

        counted = clips.scan(tf.zeros([], tf.int64), count)
        sound = counted.filter(lambda path, number, fault, clip: fault == "")
        return sound.map(lambda path, number, fault, clip: clip)

    def _report(self, path: bytes, number: np.int64, fault: bytes, in_a_row: np.int64) -> np.int64:
        if (path, int(number)) not in self._seen:
            self._seen.add((path, int(number)))
            words = (path.decode(), number, fault.decode(), len(self._seen))
            logging.warning("%s: record %d %s; left out. Damaged records so far: %d.", *words)
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

    records = Share.of(manifest, folder).read(tolerant=True)
    for path, number, record, sound in attempt(records, check, lambda *element: (*element, False)).as_numpy_iterator():
        if not sound:
            return describe(path, number, record, *size)
    return None


def describe(path: bytes, number: int, record: bytes, height: int, width: int) -> str:
    """Returns `FILE: record NUMBER` and the fault of a damaged record from a tolerant `Share.read`."""
    fault = UNREADABLE
    try:
        if record:
            fault = "was damaged when it was read first"
            collections.deque(read_frames(read_record(record)["frames"], height, width), 0)
    except DamagedError as error:
        fault = f"is damaged: {error}"
    return f"{path.decode()}: record {number} {fault}"


def explain(error: tf.errors.OpError, manifest: Manifest, data: DataConfig) -> str | None:
    """Returns the fault in the data that caused a TensorFlow error, in one line; None if there is none."""
    if HOPELESS in error.message:
        return f"{data.data_dir}: {HOPELESS} are left; {WHAT_TO_DO}"
    if data.skip_corrupt_records or not isinstance(error, (tf.errors.DataLossError, tf.errors.InvalidArgumentError)):
        return None
    logging.info("Looking for a damaged record in %s ...", data.data_dir)
    damage = find_damage(manifest, data.data_dir)
    return damage and f"{damage}; {WHAT_TO_DO}, or leave such records out with --skip_corrupt_records"
