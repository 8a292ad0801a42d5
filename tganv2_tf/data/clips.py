"""Operations on clips: windows of encoded frames, decoding, random crop and flip, pixel range."""

from __future__ import annotations

import tensorflow as tf

from tganv2_tf.data.records import decode_frame

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


def random_crop_and_flip(clip: tf.Tensor, resolution: int, flip: bool, seed: tf.Tensor) -> tf.Tensor:
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
