"""Latents z ~ U(-1, 1) (paper, arXiv 1811.09245) from stateless seeds."""

from __future__ import annotations

import tensorflow as tf


def sample_latents(num: int | tf.Tensor, z_dim: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws a batch of latents, float32 [num, z_dim], from one stateless seed, int32 or int64 [2]."""
    return tf.random.stateless_uniform([num, z_dim], seed, -1.0, 1.0)


@tf.function(reduce_retracing=True, autograph=False)  # eager `map_fn` leaks a few KB per call
def latents_from_seeds(seeds: tf.Tensor, z_dim: int) -> tf.Tensor:
    """Draws one latent per seed, independent of the other seeds in the batch: int64 [N] -> float32 [N, z_dim]."""
    return tf.map_fn(
        lambda seed: sample_latents(1, z_dim, tf.stack([seed, 0]))[0],
        tf.cast(seeds, tf.int64),
        fn_output_signature=tf.TensorSpec([z_dim], tf.float32),
    )
