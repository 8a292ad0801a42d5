"""Labelled clips, for the training and examination of classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tganv2_tf.config import DataConfig
from tganv2_tf.data.checks import _require_long_enough
from tganv2_tf.data.clips import cut_windows, decode_clip, random_crop_and_flip
from tganv2_tf.data.damage import map_or_substitute
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.reading import RecordPartition
from tganv2_tf.data.records import parse_record


@tf.autograph.experimental.do_not_convert
def labelled_clips(
    manifest: Manifest,
    data: DataConfig,
    num_frames: int,
    resolution: int,
    seed: int,
    endless: bool = False,
    keep: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Returns single clips with labels, for classifiers and scores.

    Args:
      manifest: Manifest of the data set in `data.data_dir`.
      data: Sampling options. Each record that is long enough yields `windows_per_record` clips. Damaged records are
        skipped without logging if `skip_corrupt_records` is set.
      num_frames: Number of frames per clip.
      resolution: Height and width of a clip in pixels; equals the height of the frames.
      seed: Seed of order, windows and augmentation.
      endless: Whether to repeat passes indefinitely, each with another order and other windows.
      keep: Maps a record's id, string [], to whether its clips are used, bool []; None uses all.
    Returns:
      Elements of (uint8 [num_frames, resolution, resolution, 3], int64 []).
    Raises:
      ConfigError: No video is long enough.
      UserError: A damaged record precedes the first one that is long enough.
    """
    seeds = [int(number) for number in np.random.SeedSequence([seed]).generate_state(4)]
    files_seed, records_seed, windows_seed, augmentation_seed = seeds

    def record_clips(index: tf.Tensor, record: Any) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = parse_record(record[2])
        seed = tf.stack([windows_seed, index])
        windows = cut_windows(parsed["frames"], data.windows_per_record, num_frames, data.frame_step, seed)
        if keep is not None:
            windows = windows[: tf.shape(windows)[0] * tf.cast(keep(parsed["video_id"]), tf.int32)]
        return windows, tf.repeat(parsed["label"], tf.shape(windows)[0])

    def decode(index: tf.Tensor, window: Any) -> tuple[tf.Tensor, tf.Tensor]:
        frames, label = window
        clip = decode_clip(frames, num_frames, manifest.height, manifest.width)
        return random_crop_and_flip(clip, resolution, data.flip, tf.stack([augmentation_seed, index])), label

    partition = RecordPartition.of(manifest, data.data_dir)
    _require_long_enough(manifest, partition, num_frames, data)
    tolerant = data.skip_corrupt_records
    records = (partition.read_endlessly(files_seed, tolerant) if endless else partition.read(tolerant)).enumerate()
    if data.skip_corrupt_records:
        windows = map_or_substitute(
            records, record_clips, lambda *_: (tf.fill([0, num_frames], ""), tf.zeros([0], tf.int64))
        )
    else:
        windows = records.map(record_clips, num_parallel_calls=tf.data.AUTOTUNE)
    windows = windows.unbatch().shuffle(data.shuffle_buffer, records_seed).enumerate()
    if data.skip_corrupt_records:
        none = tf.zeros([num_frames, resolution, resolution, 3], tf.uint8), tf.zeros([], tf.int64)
        tried = map_or_substitute(windows, lambda *window: (*decode(*window), True), lambda *_: (*none, False))
        return tried.filter(lambda clip, label, sound: sound).map(lambda clip, label, sound: (clip, label))
    return windows.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
