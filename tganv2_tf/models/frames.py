"""Layers of single frames, applied to videos."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tganv2_tf.models.activation_checkpointing import checkpoint_activations
from tganv2_tf.models.layers import Condition


def per_frame(
    layer: Callable[..., tf.Tensor],
    videos: tf.Tensor,
    training: bool,
    condition: Condition,
    recompute: bool = False,
) -> tf.Tensor:
    """Applies a layer of frames [N * T, H, W, C] to videos [N, T, H, W, C] with the conditions of N samples."""
    if recompute:
        return checkpoint_activations(lambda videos: per_frame(layer, videos, training, condition), videos)
    shape = tf.shape(videos)
    frames = tf.reshape(videos, [-1, *videos.shape[2:]])
    outputs = layer(frames, training=training, condition=condition.repeat(shape[1]))
    outputs = tf.reshape(outputs, tf.concat([shape[:2], outputs.shape[1:]], 0))
    return tf.ensure_shape(outputs, [*videos.shape[:2], *outputs.shape[2:]])


def in_groups_of_frames(layer: Callable[[tf.Tensor], tf.Tensor], videos: tf.Tensor, frames_at_once: int) -> tf.Tensor:
    """Applies a layer of videos to at most `frames_at_once` frames at a time, but at least to one of each video.

    Args:
      layer: Maps [N, t, H, W, C] to float32 [N, t, H', W', C'], for any t.
      videos: [N, T, H, W, C].
      frames_at_once: Number of frames of all videos together.
    Returns:
      float32 [N, T, H', W', C'].
    """
    count, num_frames = videos.shape[:2]
    if count and num_frames and count * num_frames <= frames_at_once:
        return layer(videos)
    length = tf.maximum(frames_at_once // tf.maximum(tf.shape(videos)[0], 1), 1)  # of a group
    num_groups = -(-tf.shape(videos)[1] // length)

    def group(index: tf.Tensor, done: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        outputs = layer(videos[:, index * length : (index + 1) * length])
        return index + 1, done.write(index, tf.transpose(outputs, [1, 0, 2, 3, 4]))

    groups = tf.TensorArray(tf.float32, num_groups, infer_shape=False, element_shape=None)
    # One group at a time: parallel iterations would need the memory that the groups save.
    _, groups = tf.while_loop(
        lambda index, _: index < num_groups, group, (tf.constant(0), groups), parallel_iterations=1
    )
    return tf.transpose(groups.concat(), [1, 0, 2, 3, 4])
