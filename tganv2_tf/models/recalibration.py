"""Batch-norm statistics of an averaged generator, taken anew.

Training keeps running statistics of the generator that it trains, and the averaged one gets an average of those. They
are not the statistics of its own features, which depend on its own weights. Recalibration runs it on fresh latents and
takes the mean of its moments over several batches (PreciseBN: Wu & Johnson, 2021, "Rethinking Batch in BatchNorm").
"""

from __future__ import annotations

import tensorflow as tf

from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents

BATCH_SIZE = 32  # at least; each batch's own moments normalise it, so it must not be small


def recalibrate(generator: Generator, num_batches: int, seed: int, batch_size: int = 0) -> None:
    """Replaces the running statistics of all batch norms of a generator.

    Each batch goes through all levels as in training, with the subsampling layers between them: every norm is
    normalised by the batch's moments, and sees the share of frames that its level sees in training.

    Args:
      generator: changed in place; of a conditional one, each class comes about equally often.
      num_batches: at least 1.
      seed: of the latents and frame offsets, from 0 up to, not including, 2^31.
      batch_size: N_1, a multiple of the product of the batch strides; 32 or the next one where it is 0.
    """
    config = generator.config
    clip_stride = config.pyramid.levels[-1].clip_stride
    batch_size = batch_size or -(-BATCH_SIZE // clip_stride) * clip_stride
    norms = generator.batch_norms

    @tf.function
    def moments(index: tf.Tensor) -> list[tuple[tf.Tensor, ...]]:
        fold_in = tf.random.experimental.stateless_fold_in
        of_batch = fold_in([seed, 0], index)
        z = sample_latents(batch_size, config.z_dim, fold_in(of_batch, 0))
        offsets = [
            tf.random.stateless_uniform([], fold_in(of_batch, number), 0, stride, tf.int32)
            for number, stride in enumerate(config.frame_strides, start=1)
        ]
        labels = None
        if config.num_classes:
            shift = tf.random.stateless_uniform([], fold_in(of_batch, 0), 0, config.num_classes, tf.int32)
            labels = (shift + tf.range(batch_size)) % config.num_classes
        generator.pyramid(z, frame_offsets=offsets, labels=labels)
        return [norm.batch_moments for norm in norms]

    total = moments(tf.constant(0))
    for index in range(1, num_batches):
        total = tf.nest.map_structure(tf.add, total, moments(tf.constant(index)))
    for norm, (mean, variance) in zip(norms, total):
        norm.moving_mean.assign(mean / num_batches)
        norm.moving_variance.assign(variance / num_batches)
