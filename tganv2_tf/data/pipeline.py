"""Shards -> clips -> batches of pyramids, with tf.data.

An epoch reads every shard once, in an order of its own; each record gives one clip, a window drawn uniformly from all
starts that fit. Windows are cut out while the frames are still JPEG: only their bytes are shuffled and decoded.
All random numbers come from the seed and the number of the record, clip or batch, so that a seed gives the same batches
whatever the number of threads.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tganv2_tf.config import DataConfig, ModelConfig
from tganv2_tf.data.records import Manifest, parse_record
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.subsampling import video_pyramid

SHARDS_READ_AT_ONCE = 8
OFFICIAL_CROP_MARGIN = 16  # the authors draw x0 from 4..60 of 0..64: a sixteenth of the room is left at either side


def normalize(frames: tf.Tensor, normalization: str = "paper") -> tf.Tensor:
    """uint8 -> float32 in [-1, 1]: `paper` x / 127.5 - 1, `official` (x - 128) / 128, at most 0.992."""
    values = tf.cast(frames, tf.float32)
    return values / 127.5 - 1.0 if normalization == "paper" else (values - 128.0) / 128.0


def cut_window(frames: tf.Tensor, num_frames: int, frame_step: int, seed: tf.Tensor) -> tf.Tensor:
    """A window of a video, its start uniform over all that fit; empty where the video is too short.

    Args:
      frames: string [T], encoded frames.
      num_frames: of the window.
      frame_step: distance of its frames in the video.
      seed: int32 or int64 [2], a stateless seed.
    Returns:
      string [num_frames], or [0].
    """
    span = (num_frames - 1) * frame_step + 1
    starts = tf.shape(frames)[0] - span + 1
    start = tf.random.stateless_uniform([], seed, 0, tf.maximum(starts, 1), tf.int32)
    return frames[start : start + span : frame_step] if starts > 0 else frames[:0]


def decode_clip(frames: tf.Tensor, num_frames: int, height: int, width: int) -> tf.Tensor:
    """string [num_frames] of JPEG or PNG -> uint8 [num_frames, height, width, 3]."""
    # Unrolled: tf.map_fn costs more than the decoding of a small frame. The op reads PNG as well, whatever its name.
    decoded = [tf.io.decode_jpeg(frames[t], 3, dct_method="INTEGER_ACCURATE") for t in range(num_frames)]
    return tf.ensure_shape(tf.stack(decoded), [num_frames, height, width, 3])


def augment(clip: tf.Tensor, resolution: int, flip: bool, seed: tf.Tensor) -> tf.Tensor:
    """Random horizontal crop of a clip that is wider than high, and a mirrored clip half of the time.

    Args:
      clip: uint8 [T, resolution, W, 3], W >= resolution.
      resolution: of the result, in pixels.
      flip: whether to mirror.
      seed: a stateless seed.
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
        clip = tf.cond(draws[1] < 0.5, lambda: clip[:, :, ::-1], lambda: clip)
    return clip


def _windows(manifest: Manifest, model: ModelConfig, data: DataConfig, seeds: np.ndarray) -> tf.data.Dataset:
    """Endless encoded windows: string [num_frames] each. Every epoch reads the shards in another order."""
    paths = manifest.shard_paths(data.data_dir)
    files_seed, records_seed, windows_seed = (int(seed) for seed in seeds)

    def window(index: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        frames = parse_record(record)["frames"]
        return cut_window(frames, model.num_frames, data.frame_step, tf.stack([windows_seed, index]))

    files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), files_seed).repeat()
    records = files.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(SHARDS_READ_AT_ONCE, len(paths)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    windows = records.enumerate().map(window, num_parallel_calls=tf.data.AUTOTUNE)
    return windows.filter(lambda frames: tf.size(frames) > 0).shuffle(data.shuffle_buffer, records_seed)


def load_manifest(model: ModelConfig, data: DataConfig) -> Manifest:
    """Reads the manifest and makes sure that training can use the data set.

    Raises:
      ConfigError: no `data_dir`, or frames of another size than the model's.
      UserError: a damaged data set, or one without a single video that is long enough.
    """
    if not data.data_dir:
        raise ConfigError("--data_dir is missing: the folder of the shards; `python -m data_prep.ucf101` makes one")
    manifest = Manifest.load(data.data_dir)
    if manifest.height != model.resolution or manifest.width < model.resolution:
        raise ConfigError(
            f"--resolution={model.resolution}: the frames in {data.data_dir} have {manifest.height}x{manifest.width} "
            f"pixels; valid: {manifest.height}, or prepare the videos again with --resolution={model.resolution}"
        )
    span = (model.num_frames - 1) * data.frame_step + 1
    records = tf.data.TFRecordDataset(manifest.shard_paths(data.data_dir))
    lengths = records.map(lambda record: parse_record(record)["num_frames"])
    try:
        if next(iter(lengths.filter(lambda length: length >= span)), None) is None:
            raise ConfigError(
                f"--num_frames={model.num_frames} with --frame_step={data.frame_step}: no video in {data.data_dir} has "
                f"the {span} frames that a clip spans"
            )
    except tf.errors.OpError as error:
        raise UserError(f"{data.data_dir}: a shard is damaged: {error.message}; prepare the data set again") from error
    return manifest


def training_dataset(
    manifest: Manifest,
    model: ModelConfig,
    data: DataConfig,
    batch_size: int,
    n_dis: int,
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Endless batches for one replica.

    Args:
      manifest: of the data set in `data.data_dir`, from `load_manifest`.
      model: shape of the clips and levels.
      data: how to draw them.
      batch_size: N_1 of this replica.
      n_dis: batches an element.
      seed: of the order, the windows, the augmentation and the frame offsets.
      first_step: of the run that is taken up; it goes on with an order of its own.
    Returns:
      Elements of L tensors, level l float32 [n_dis, N_l, T_l, H_l, W_l, 3] in [-1, 1].
    """
    spec = model.pyramid
    seeds = np.random.SeedSequence([seed, first_step]).generate_state(5)
    augmentation_seed, offsets_seed = (int(number) for number in seeds[3:])

    def clip(index: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        decoded = decode_clip(frames, model.num_frames, manifest.height, manifest.width)
        return augment(decoded, model.resolution, data.flip, tf.stack([augmentation_seed, index]))

    def pyramids(index: tf.Tensor, clips: tf.Tensor) -> tuple[tf.Tensor, ...]:
        batches = tf.reshape(clips, [n_dis, batch_size, *clips.shape[1:]])
        levels = [
            video_pyramid(normalize(batches[i], data.normalization), spec, tf.stack([offsets_seed + i, index]))
            for i in range(n_dis)
        ]
        return tuple(tf.stack(same_level) for same_level in zip(*levels))

    windows = _windows(manifest, model, data, seeds[:3])
    clips = windows.enumerate().map(clip, num_parallel_calls=tf.data.AUTOTUNE)
    batches = clips.batch(n_dis * batch_size, drop_remainder=True)
    return batches.enumerate().map(pyramids, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
