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

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf.config import DataConfig, ModelConfig
from tganv2_tf.data.advice import preparation, require_data_dir
from tganv2_tf.data.lengths import span
from tganv2_tf.data.manifest import WHAT_TO_DO, Manifest
from tganv2_tf.data.reading import UNREADABLE, Share, SkippedRecords, attempt, describe
from tganv2_tf.data.records import decode_frame, parse_record
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.subsampling import video_pyramid

OFFICIAL_CROP_MARGIN = 16  # the authors draw x0 from 4..60 of 0..64: a margin of 1/16 on either side


def normalize(frames: tf.Tensor, normalization: str = "paper") -> tf.Tensor:
    """Maps [0, 255] to float32 in [-1, 1]: `paper` x / 127.5 - 1, `official` (x - 128) / 128, which is below 1."""
    values = tf.cast(frames, tf.float32)
    return values / 127.5 - 1.0 if normalization == "paper" else (values - 128.0) / 128.0


def cut_windows(frames: tf.Tensor, count: int, num_frames: int, frame_step: int, seed: tf.Tensor) -> tf.Tensor:
    """Cuts random windows from a video. Starts are uniform over all valid ones, and distinct if there are enough.

    Args:
      frames: Encoded frames, string [T].
      count: Number of windows.
      num_frames: Number of frames per window.
      frame_step: Distance between the frames of a window, in frames of the video.
      seed: Stateless seed, int32 or int64 [2].
    Returns:
      string [count, num_frames]; [0, num_frames] if the video is too short.
    """
    starts = tf.maximum(tf.shape(frames)[0] - (num_frames - 1) * frame_step, 0)
    order = tf.argsort(tf.random.stateless_uniform([starts], seed))
    chosen = tf.tile(order, [count // tf.maximum(starts, 1) + 1])[:count]
    return tf.gather(frames, chosen[:, tf.newaxis] + frame_step * tf.range(num_frames))


def decode_clip(frames: tf.Tensor, num_frames: int, height: int, width: int) -> tf.Tensor:
    """Decodes JPEG or PNG frames: string [num_frames] -> uint8 [num_frames, height, width, 3]."""
    # Unrolled, because tf.map_fn takes longer than decoding a small frame.
    decoded = [decode_frame(frames[t]) for t in range(num_frames)]
    return tf.ensure_shape(tf.stack(decoded), [num_frames, height, width, 3])


def augment(clip: tf.Tensor, resolution: int, flip: bool, seed: tf.Tensor) -> tf.Tensor:
    """Crops a clip to a square at a random horizontal position, and mirrors it with probability 1/2.

    Args:
      clip: uint8 [T, resolution, W, 3], W >= resolution.
      resolution: Height and width of the result, in pixels.
      flip: Whether to mirror at random.
      seed: Stateless seed.
    Returns:
      uint8 [T, resolution, resolution, 3].
    """
    draws = tf.random.stateless_uniform([2], seed)
    room = clip.shape[2] - resolution
    if room:
        margin = room // OFFICIAL_CROP_MARGIN
        left = margin + tf.cast(draws[0] * float(room - 2 * margin + 1), tf.int32)
        clip = clip[:, :, left : left + resolution]
        clip = tf.ensure_shape(clip, [clip.shape[0], resolution, resolution, 3])
    if flip:
        clip = tf.cond(draws[1] < 0.5, lambda: _mirrored(clip), lambda: clip)
    return clip


def _mirrored(clip: tf.Tensor) -> tf.Tensor:
    """Mirrors a clip, uint8 [T, H, W, 3], horizontally."""
    # tf.reverse of rows is twenty times as fast as a slice with step -1.
    rows = tf.reverse(tf.reshape(clip, [-1, *clip.shape[2:]]), [1])
    return tf.reshape(rows, clip.shape)


def _slots(share: Share, model: ModelConfig, data: DataConfig, seeds: np.ndarray, first: int) -> tf.data.Dataset:
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
            text = tf.strings.format("{}: record {} has no label of the manifest", (path, number))
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
    records = share.read_endlessly(files_seed, data.skip_corrupt_records, record).enumerate(record)
    if data.skip_corrupt_records:
        windows = attempt(records, windows_of, unreadable)
    else:
        windows = records.map(windows_of, num_parallel_calls=tf.data.AUTOTUNE)
    blocks = windows.unbatch().skip(windows_before).batch(size, drop_remainder=True).enumerate(block).prefetch(1)
    slots = blocks.flat_map(shuffled).skip(first - block * size)
    return slots.enumerate(first).map(lambda slot, window: (slot, *window))


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

    def clips_of(index: tf.Tensor, record: Any) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = parse_record(record[2])
        seed = tf.stack([windows_seed, index])
        windows = cut_windows(parsed["frames"], data.windows_per_record, num_frames, data.frame_step, seed)
        if keep is not None:
            windows = windows[: tf.shape(windows)[0] * tf.cast(keep(parsed["video_id"]), tf.int32)]
        return windows, tf.repeat(parsed["label"], tf.shape(windows)[0])

    def decode(index: tf.Tensor, window: Any) -> tuple[tf.Tensor, tf.Tensor]:
        frames, label = window
        clip = decode_clip(frames, num_frames, manifest.height, manifest.width)
        return augment(clip, resolution, data.flip, tf.stack([augmentation_seed, index])), label

    share = Share.of(manifest, data.data_dir)
    _require_long_enough(manifest, share, num_frames, data)
    tolerant = data.skip_corrupt_records
    records = (share.read_endlessly(files_seed, tolerant) if endless else share.read(tolerant)).enumerate()
    if data.skip_corrupt_records:
        windows = attempt(records, clips_of, lambda *_: (tf.fill([0, num_frames], ""), tf.zeros([0], tf.int64)))
    else:
        windows = records.map(clips_of, num_parallel_calls=tf.data.AUTOTUNE)
    windows = windows.unbatch().shuffle(data.shuffle_buffer, records_seed).enumerate()
    if data.skip_corrupt_records:
        none = tf.zeros([num_frames, resolution, resolution, 3], tf.uint8), tf.zeros([], tf.int64)
        tried = attempt(windows, lambda *window: (*decode(*window), True), lambda *_: (*none, False))
        return tried.filter(lambda clip, label, sound: sound).map(lambda clip, label, sound: (clip, label))
    return windows.map(decode, num_parallel_calls=tf.data.AUTOTUNE)


def load_manifest(model: ModelConfig, data: DataConfig) -> Manifest:
    """Reads the manifest and checks that the data set fits the model.

    Raises:
      ConfigError: `data_dir` is not set, sizes of frames or classes do not fit the model, or no video is long enough.
      UserError: There is no data set, or it is damaged and `skip_corrupt_records` is not set.
    """
    require_data_dir(model, data)
    command = preparation(model, data)
    if data.skip_corrupt_records:
        manifest = Manifest.read(data.data_dir, command)
        for file, fault in manifest.faults(data.data_dir).items():
            logging.warning("%s: %s", file, fault)
    else:
        manifest = Manifest.load(data.data_dir, command)
    if manifest.height != model.resolution or manifest.width < model.resolution:
        raise ConfigError(
            f"--resolution={model.resolution}: the frames in {data.data_dir} have {manifest.height}x{manifest.width} "
            f"pixels; valid: {manifest.height}, or prepare the videos again with --resolution={model.resolution}"
        )
    if model.conditional and len(manifest.labels) < 2:
        raise ConfigError(
            f"--conditional: the videos in {data.data_dir} have no classes to tell apart; prepare them with "
            "data_prep.ucf101, or with data_prep.video_folder from a folder a class"
        )
    if model.num_classes not in (0, len(manifest.labels)):
        raise ConfigError(
            f"--num_classes={model.num_classes}: {data.data_dir} has {len(manifest.labels)} classes; valid: that, or 0"
        )
    _require_long_enough(manifest, Share.of(manifest, data.data_dir), model.num_frames, data)
    return manifest


def _require_long_enough(manifest: Manifest, share: Share, num_frames: int, data: DataConfig) -> None:
    """Reads records until one is long enough for a clip. Raises UserError if a damaged record precedes it."""
    least = span(num_frames, data.frame_step)
    lengths = attempt(
        share.read(tolerant=True),
        lambda *record: (*record, parse_record(record[2])["num_frames"]),
        lambda *record: (*record, np.int64(-1)),
    )
    longest = -1
    for path, number, record, length in lengths.as_numpy_iterator():
        longest = max(longest, length)
        if longest >= least:
            return
        if length < 0 and not data.skip_corrupt_records:
            raise UserError(f"{describe(path, number, record, manifest.height, manifest.width)}; {WHAT_TO_DO}")
    if longest < 0:
        raise UserError(f"{data.data_dir}: not one record can be read; {WHAT_TO_DO}")
    raise ConfigError(
        f"--num_frames={num_frames} with --frame_step={data.frame_step}: no video in {data.data_dir} has the "
        f"{least} frames that a clip spans; the longest has {longest}"
    )


class Position(NamedTuple):
    """Position of an input pipeline in its stream.

    Attributes:
      batch: Number of elements yielded.
      slot: Number of slots used for them.
    """

    batch: int
    slot: int


START = Position(0, 0)


@tf.autograph.experimental.do_not_convert  # not needed here; conversion takes a second
def training_dataset(
    manifest: Manifest,
    model: ModelConfig,
    data: DataConfig,
    batch_size: int,
    n_dis: int,
    seed: int,
    first: Position = START,
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
    share = Share.of(manifest, data.data_dir, num_pipelines, pipeline)
    if num_pipelines > 1:  # `load_manifest` has checked the whole data set
        _require_long_enough(manifest, share, model.num_frames, data)
    seeds = np.random.SeedSequence([seed, pipeline]).generate_state(5)
    augmentation_seed, offsets_seed = (int(number) for number in seeds[3:])

    def clip(slot: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        decoded = decode_clip(frames, model.num_frames, manifest.height, manifest.width)
        return augment(decoded, model.resolution, data.flip, tf.stack([augmentation_seed, slot]))

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

    slots = _slots(share, model, data, seeds[:3], first.slot)
    slots = slots.filter(lambda slot, path, number, label, frames: number >= 0)
    if data.skip_corrupt_records:
        undecodable = f"has frames that are no pictures of {manifest.width}x{manifest.height} pixels"
        no_clip = tf.zeros([model.num_frames, model.resolution, model.resolution, 3], tf.uint8)
        tried = attempt(
            slots,
            lambda slot, path, number, label, frames: (path, number, "", (slot, clip(slot, frames), label)),
            lambda slot, path, number, label, frames: (
                path,
                number,
                tf.where(frames[0] == "", UNREADABLE, undecodable),
                (slot, no_clip, label),
            ),
        )
        slots_of_an_epoch = share.num_records * data.windows_per_record
        clips = SkippedRecords(max(slots_of_an_epoch, data.shuffle_buffer)).leave_out(tried)
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
