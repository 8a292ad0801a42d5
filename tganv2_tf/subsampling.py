"""The subsampling layers: S^G between the generator's levels, S^D from a real clip to its pyramid.

Both subsample by `h[::s_n, b::s_t]` with a random offset b (arXiv 1811.09245, section on the subsampling layers), so
real and fake levels have the same distribution of frames. S^D also averages pixels down to the level's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tganv2_tf.pyramid import PyramidSpec


def random_frame_offsets(frame_strides: Sequence[int], seed: tf.Tensor) -> list[tf.Tensor]:
    """Draws one offset b_t of S^G per subsampling layer, uniform in 0..s_t - 1.

    Args:
      frame_strides: s_t of each layer.
      seed: Stateless seed, int32 [2]; must be equal on all replicas.
    Returns:
      int32 scalars.
    """
    offsets = []
    for index, stride in enumerate(frame_strides):
        layer_seed = tf.random.experimental.stateless_fold_in(seed, index)
        offsets.append(tf.random.stateless_uniform([], layer_seed, 0, stride, tf.int32))
    return offsets


def subsample(features: tf.Tensor, frame_offset: tf.Tensor | int, frame_stride: int, batch_stride: int) -> tf.Tensor:
    """Applies S^G: keeps every batch_stride-th sample and every frame_stride-th frame, starting at the offset.

    Args:
      features: [N, T, H, W, C]; N and T are divisible by their strides.
      frame_offset: b_t, an integer in 0..frame_stride - 1 for the whole batch.
      frame_stride: s_t.
      batch_stride: s_n.
    Returns:
      [N / s_n, T / s_t, H, W, C].
    """
    if frame_stride == 1:
        return features[::batch_stride]
    num_samples, num_frames = features.shape[:2]
    samples = None if num_samples is None else -(-num_samples // batch_stride)
    shape = [num_frames // frame_stride, frame_stride, *features.shape[2:]]
    grouped = tf.reshape(features[::batch_stride], [-1, *shape])
    # XLA cannot compile or differentiate a slice that starts at a tensor, but it can gather one frame per group.
    return tf.ensure_shape(
        _select(grouped, tf.convert_to_tensor(frame_offset)), [samples, shape[0], *features.shape[2:]]
    )


@tf.custom_gradient
def _select(grouped: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
    """Selects the same index of each group of S: [N, M, S, H, W, C] -> [N, M, H, W, C]."""

    def gradient(grad_output: tf.Tensor) -> tuple[tf.Tensor, None]:
        chosen = tf.one_hot(index, grouped.shape[2], dtype=grad_output.dtype)
        return grad_output[:, :, tf.newaxis] * chosen[:, tf.newaxis, tf.newaxis, tf.newaxis], None

    return tf.gather(grouped, index, axis=2), gradient


def average_pixels(videos: tf.Tensor, factor: int) -> tf.Tensor:
    """Averages blocks of factor x factor pixels: float [N, T, H, W, C] -> [N, T, H / factor, W / factor, C]."""
    if factor == 1:
        return videos
    shape = tf.shape(videos)
    height, width, channels = videos.shape[2:]
    merged = tf.reshape(videos, [-1, height, width, channels])
    pooled = tf.nn.avg_pool2d(merged, factor, factor, "VALID")
    pooled = tf.reshape(pooled, [shape[0], shape[1], height // factor, width // factor, channels])
    return tf.ensure_shape(pooled, [*videos.shape[:2], height // factor, width // factor, channels])


def video_pyramid(videos: tf.Tensor, spec: PyramidSpec, seed: tf.Tensor) -> list[tf.Tensor]:
    """Applies S^D: computes the levels of a batch of real clips.

    Strides and clip indices are those of S^G. Frame offsets are independent per clip and level. They are nested: the
    frames of a level are a subset of those of the previous level.

    Args:
      videos: uint8 or float32 [N_1, T, H, W, C].
      spec: Sizes of the levels.
      seed: Stateless seed, int32 [2].
    Returns:
      L tensors, level l float32 [N_l, T_l, H_l, W_l, C], in the value range of `videos`.
    """
    num_clips, (num_frames, *frame_shape) = tf.shape(videos)[0], videos.shape[1:]
    # Subsamples indices of frames, so that frames are copied and cast only once per level.
    all_frames = tf.reshape(videos, [-1, *frame_shape])
    frame_indices = tf.reshape(tf.range(num_clips * num_frames), [num_clips, num_frames])
    levels = []
    for level in spec.levels:
        frames = videos
        if level.number > 1:
            frame_stride = spec.frame_strides[level.number - 2]
            frame_indices = frame_indices[:: spec.batch_strides[level.number - 2]]
            level_seed = tf.random.experimental.stateless_fold_in(seed, level.number)
            offsets = tf.random.stateless_uniform(
                [tf.shape(frame_indices)[0], 1], level_seed, 0, frame_stride, tf.int32
            )
            indices = offsets + tf.range(level.frames)[tf.newaxis] * frame_stride
            frame_indices = tf.gather(frame_indices, indices, batch_dims=1)
            frames = tf.gather(all_frames, frame_indices)
        levels.append(average_pixels(tf.cast(frames, tf.float32), spec.resolution // level.size))
    return levels
