"""Input pipeline with tf.data: shards -> clips -> batches of pyramids.

An epoch reads every shard once, in random order. Each record yields `windows_per_record` clips: windows whose starts
are drawn uniformly from all valid ones. Windows are cut from encoded frames, so only JPEG bytes are shuffled and only
frames that are used are decoded.

The stream can start at any position. It consists of slots, `windows_per_record` per record, including damaged and too
short ones, so slot i always belongs to the same record. Slots are shuffled within blocks. All random numbers depend on
the seed and the index of the record, slot or batch. A seed therefore determines the batches for any number of threads,
and a run resumes from the index of the last used slot.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tganv2_tf.config import DataConfig
from tganv2_tf.data.checks import _require_long_enough
from tganv2_tf.data.clips import cut_windows, decode_clip, normalize, random_crop_and_flip
from tganv2_tf.data.damage import UNREADABLE, SkippedRecords, map_or_substitute
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.reading import RecordPartition
from tganv2_tf.data.records import parse_record
from tganv2_tf.subsampling import video_pyramid
from tganv2_tf.systems import SystemConfig


def _slot_stream(
    partition: RecordPartition, model: SystemConfig, data: DataConfig, seeds: np.ndarray, first: int
) -> tf.data.Dataset:
    """Returns the endless stream of slots with their encoded windows, starting at slot `first`.

    Returns:
      Elements of (slot int64 [], path string [], number int64 [], label int64 [], frames string [num_frames]). If the
      record is too short, or unreadable and to be skipped, the frames are empty strings. If it is too short, `number`
      is -1.
    """
    files_seed, blocks_seed, windows_seed = (int(seed) for seed in seeds)
    count, size = data.windows_per_record, data.shuffle_buffer

    def several(path: tf.Tensor, number: tf.Tensor, label: tf.Tensor, windows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return *(tf.repeat(value, count) for value in (path, number, label)), windows

    def windows_of(index: tf.Tensor, record: Any) -> tuple[tf.Tensor, ...]:
        path, number, serialized = record
        parsed = parse_record(serialized)
        seed = tf.stack([windows_seed, index])
        windows = cut_windows(parsed["frames"], count, model.num_frames, data.frame_step, seed)
        if model.conditional:
            text = tf.strings.format("{}: record {} has a label that is not in the manifest", (path, number))
            tf.debugging.Assert((parsed["label"] >= 0) & (parsed["label"] < model.num_classes), [text])
        too_short = tf.shape(windows)[0] == 0
        windows = tf.cond(too_short, lambda: tf.fill([count, model.num_frames], ""), lambda: windows)
        return several(path, tf.where(too_short, tf.constant(-1, tf.int64), number), parsed["label"], windows)

    def unreadable(index: tf.Tensor, record: Any) -> tuple[tf.Tensor, ...]:
        path, number, _ = record
        return several(path, number, tf.zeros([], tf.int64), tf.fill([count, model.num_frames], ""))

    def shuffled(block: tf.Tensor, columns: Any) -> tf.data.Dataset:
        order = tf.argsort(tf.random.stateless_uniform([size], tf.stack([blocks_seed, block])))
        numbers = tf.data.Dataset.from_tensor_slices(order)
        return numbers.map(lambda i: tuple(tf.gather(column, i) for column in columns))

    block = first // size
    record, windows_before = divmod(block * size, count)
    records = partition.read_endlessly(files_seed, data.skip_corrupt_records, record).enumerate(record)
    if data.skip_corrupt_records:
        windows = map_or_substitute(records, windows_of, unreadable)
    else:
        windows = records.map(windows_of, num_parallel_calls=tf.data.AUTOTUNE)
    blocks = windows.unbatch().skip(windows_before).batch(size, drop_remainder=True).enumerate(block).prefetch(1)
    slots = blocks.flat_map(shuffled).skip(first - block * size)
    return slots.enumerate(first).map(lambda slot, window: (slot, *window))


class StreamPosition(NamedTuple):
    """Position of an input pipeline in its stream.

    Attributes:
      batch: Number of elements yielded.
      slot: Number of slots used for them.
    """

    batch: int
    slot: int


START = StreamPosition(0, 0)


@tf.autograph.experimental.do_not_convert  # not needed here; conversion takes a second
def training_dataset(
    manifest: Manifest,
    model: SystemConfig,
    data: DataConfig,
    batch_size: int,
    n_dis: int,
    seed: int,
    first: StreamPosition = START,
    num_pipelines: int = 1,
    pipeline: int = 0,
) -> tf.data.Dataset:
    """Returns an endless data set of batches for one replica.

    Args:
      manifest: Manifest of the data set in `data.data_dir`, from `load_manifest`.
      model: Sizes of clips and levels.
      data: Sampling options.
      batch_size: N_1 of this replica.
      n_dis: Number of batches per element.
      seed: Seed of order, windows, augmentation and frame offsets.
      first: Start position. The elements equal those of a data set from the beginning after this position.
      num_pipelines: Number of processes that train together; each reads a disjoint part of the data.
      pipeline: Index of this process, from 0.
    Returns:
      Elements of (levels, labels, used). Levels: L tensors, level l float32 [n_dis, N_l, T_l, H_l, W_l, 3] in [-1, 1].
      Labels of the clips at level 1: int64 [n_dis, N_1], -1 for a clip without a label. Slots used for this element:
      int64 [num_pipelines], nonzero only for this pipeline.
    Raises:
      ConfigError: No video of this pipeline's part is long enough.
    """
    spec = model.pyramid
    partition = RecordPartition.of(manifest, data.data_dir, num_pipelines, pipeline)
    if num_pipelines > 1:  # `load_manifest` has checked the whole data set
        _require_long_enough(manifest, partition, model.num_frames, data)
    seeds = np.random.SeedSequence([seed, pipeline]).generate_state(5)
    augmentation_seed, offsets_seed = (int(number) for number in seeds[3:])

    def clip(slot: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        decoded = decode_clip(frames, model.num_frames, manifest.height, manifest.width)
        return random_crop_and_flip(decoded, model.resolution, data.flip, tf.stack([augmentation_seed, slot]))

    def element(index: tf.Tensor, clips: tf.Tensor, labels: tf.Tensor, used: tf.Tensor) -> tuple[Any, ...]:
        batches = tf.reshape(clips, [n_dis, batch_size, *clips.shape[1:]])
        levels = [video_pyramid(batches[i], spec, tf.stack([offsets_seed + i, index])) for i in range(n_dis)]
        # Normalised after averaging: fewer values, and averages of bytes are exact.
        stacked = tuple(normalize(tf.stack(same_level), data.normalization) for same_level in zip(*levels))
        mine = tf.one_hot(pipeline, num_pipelines, dtype=tf.int64)
        return stacked, tf.reshape(labels, [n_dis, batch_size]), used * mine

    def count(before: tf.Tensor, batch: Any) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        slots, clips, labels = batch
        return slots[-1] + 1, (clips, labels, slots[-1] + 1 - before)

    slots = _slot_stream(partition, model, data, seeds[:3], first.slot)
    slots = slots.filter(lambda slot, path, number, label, frames: number >= 0)
    if data.skip_corrupt_records:
        undecodable = f"has frames that are not images of {manifest.width}x{manifest.height} pixels"
        no_clip = tf.zeros([model.num_frames, model.resolution, model.resolution, 3], tf.uint8)
        tried = map_or_substitute(
            slots,
            lambda slot, path, number, label, frames: (path, number, "", (slot, clip(slot, frames), label)),
            lambda slot, path, number, label, frames: (
                path,
                number,
                tf.where(frames[0] == "", UNREADABLE, undecodable),
                (slot, no_clip, label),
            ),
        )
        slots_of_an_epoch = partition.num_records * data.windows_per_record
        clips = SkippedRecords(max(slots_of_an_epoch, data.shuffle_buffer)).keep_valid(tried)
    else:
        clips = slots.map(
            lambda slot, path, number, label, frames: (slot, clip(slot, frames), label),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    batches = clips.batch(n_dis * batch_size, drop_remainder=True).scan(tf.constant(first.slot, tf.int64), count)
    elements = batches.enumerate(first.batch).map(
        lambda index, batch: element(index, *batch), num_parallel_calls=tf.data.AUTOTUNE
    )
    return elements.prefetch(tf.data.AUTOTUNE)
