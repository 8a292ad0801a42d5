"""Recalibration of an averaged generator's batch-norm statistics.

The averaged generator's running statistics are averages of the trained generator's. They are not the statistics of its
own features, which depend on its own weights. Recalibration runs the averaged generator on new latents and averages
its moments over several batches (PreciseBN: Wu & Johnson, arXiv 2105.07576, "Rethinking Batch in BatchNorm").
"""

from __future__ import annotations

import tensorflow as tf

from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.options import require

BATCH_SIZE = 32  # minimum; a batch is normalised by its own moments, so it must not be small


def recalibrate(generator: tf.keras.Model, num_batches: int, seed: int, batch_size: int = 0) -> None:
    """Replaces the running statistics of all batch norms of a generator.

    As in training, each batch passes through all levels and subsampling layers and is normalised by its own moments.

    Args:
      generator: Generator, changed in place. Classes of a conditional generator are drawn about equally often.
      num_batches: Number of batches, at least 1.
      seed: Seed of latents and frame offsets, 0 <= seed < 2^31.
      batch_size: N_1, a multiple of the product of the batch strides; 0 is the smallest such multiple >= 32.
    Raises:
      ConfigError: The generator is not TGANv2's.
    """
    config = generator.config
    require(isinstance(generator, Generator), "recalibration_batches", num_batches, f"0 for --system={config.system}")
    clip_stride = config.pyramid.levels[-1].clip_stride
    batch_size = batch_size or -(-BATCH_SIZE // clip_stride) * clip_stride
    norms = generator.batch_norms

    @tf.function(autograph=False)
    def moments(index: tf.Tensor) -> list[tuple[tf.Tensor, ...]]:
        fold_in = tf.random.experimental.stateless_fold_in
        batch_seed = fold_in([seed, 0], index)
        z = sample_latents(batch_size, config.z_dim, fold_in(batch_seed, 0))
        offsets = [
            tf.random.stateless_uniform([], fold_in(batch_seed, number), 0, stride, tf.int32)
            for number, stride in enumerate(config.frame_strides, start=1)
        ]
        labels = None
        if config.num_classes:
            shift = tf.random.stateless_uniform([], fold_in(batch_seed, 0), 0, config.num_classes, tf.int32)
            labels = (shift + tf.range(batch_size)) % config.num_classes
        generator.pyramid(z, frame_offsets=offsets, labels=labels)
        return [norm.batch_moments for norm in norms]

    total = moments(tf.constant(0))
    for index in range(1, num_batches):
        total = tf.nest.map_structure(tf.add, total, moments(tf.constant(index)))
    for norm, (mean, variance) in zip(norms, total):
        norm.moving_mean.assign(mean / num_batches)
        norm.moving_variance.assign(variance / num_batches)
