"""Reads records from shards with tf.data: partition among pipelines, and an order that can be resumed.

tf.data stops at the first error and reports neither file nor record, so elements carry both. If damage is tolerated, a
function that fails yields a substitute. This costs 0.25 ms per call; otherwise an error ends the run, and `find_damage`
then searches for its cause.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tganv2_tf import storage
from tganv2_tf.data.local_copies import SHARD_CACHE, SHARDS_READ_AT_ONCE
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import ConfigError

MIN_SHARDS_PER_PIPELINE = 16


class ShardFile(NamedTuple):
    """A shard, and the index of its first record in the data set."""

    path: str
    num_records: int
    first_record: int


@dataclasses.dataclass(frozen=True)
class RecordPartition:
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
    def of(cls, manifest: Manifest, folder: str, num_pipelines: int = 1, pipeline: int = 0) -> RecordPartition:
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
        if manifest.num_shards % num_pipelines and manifest.num_shards < MIN_SHARDS_PER_PIPELINE * num_pipelines:
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

    @tf.autograph.experimental.do_not_convert  # not needed here; conversion takes time
    def read(self, tolerant: bool = False) -> tf.data.Dataset:
        """Reads the records once.

        Args:
          tolerant: Whether to yield an empty string for each lost record of a truncated or missing file, instead of
            raising an error.
        Returns:
          Elements of (path string [], number int64 [], from 0 in its file, serialized string []).
        """
        return self._epoch(tf.range(len(self.files)), tf.zeros([], tf.int64), tolerant)

    @tf.autograph.experimental.do_not_convert
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

        def epoch_order(number: tf.Tensor | int) -> tf.Tensor:
            # Not `Dataset.shuffle`, which also depends on TensorFlow's global seed.
            return tf.argsort(tf.random.stateless_uniform([len(self.files)], tf.stack([seed, number])))

        order = epoch_order(epoch)
        rounds, rest = _resume_offset([sum(counts[i] for i in lane) for lane in _lanes(order.numpy().tolist())], record)
        current = self._epoch(order, tf.constant(rounds, tf.int64), tolerant).skip(rest)
        later = tf.data.Dataset.counter(tf.constant(epoch + 1, tf.int64))
        none = tf.zeros([], tf.int64)
        return current.concatenate(later.flat_map(lambda number: self._epoch(epoch_order(number), none, tolerant)))

    def _epoch(self, order: tf.Tensor, rounds: tf.Tensor, tolerant: bool) -> tf.data.Dataset:
        """Reads all records once. Lanes take turns to yield a record; each lane reads its shards sequentially.

        Args:
          order: Indices of the files, int32; lane i of n has every n-th from the i-th on.
          rounds: Number of records of each lane to skip, int64.
          tolerant: As in `read`.
        """

        remote = storage.is_remote(self.files[0].path)

        def read_shard(path: tf.Tensor, num_records: tf.Tensor, first: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
            if tolerant or remote:
                can_be_opened = tf.ensure_shape(
                    tf.numpy_function(_readable_paths, [path], tf.string, stateful=False), [None]
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

        def read_lane(lane: tf.Tensor) -> tf.data.Dataset:
            chosen = order[lane::num_lanes]
            before = tf.cumsum(tf.gather(counts, chosen), exclusive=True)
            skips = tf.clip_by_value(rounds - before, 0, tf.gather(counts, chosen))
            shards = tf.data.Dataset.from_tensor_slices(
                (*(tf.gather(column, chosen) for column in columns), skips, tf.gather(counts, chosen))
            )
            unread = shards.filter(lambda *shard: shard[-2] < shard[-1])
            return unread.flat_map(lambda *shard: read_shard(*shard[:-1]))

        return tf.data.Dataset.range(num_lanes, output_type=tf.int32).interleave(
            read_lane, cycle_length=num_lanes, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def _lanes(files: Sequence[Any]) -> list[Sequence[Any]]:
    """Assigns files to lanes, which are read in parallel."""
    num_lanes = min(SHARDS_READ_AT_ONCE, len(files))
    return [files[lane::num_lanes] for lane in range(num_lanes)]


def _resume_offset(lengths: list[int], record: int) -> tuple[int, int]:
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


def _readable_paths(path: bytes) -> np.ndarray:
    """Returns [path], or [path of a local copy] if remote, or [] if the file cannot be opened.

    With `ignore_errors`, tf.data would retry a file that cannot be opened indefinitely.

    Raises:
      OSError: The server of a remote file cannot be reached, so it is unknown whether the file exists.
    """
    if storage.is_remote(path.decode()):
        try:
            return np.array([SHARD_CACHE.of(path.decode()).encode()])
        except FileNotFoundError:
            return np.array([], "S")
    try:
        with open(path, "rb"):
            return np.array([path])
    except OSError:
        return np.array([], "S")
