"""Layers that several of the compared systems share. Axes are N, (T,) H, W, C; weights and activations are float32."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.keras import layers


class BatchNorm(layers.Layer):
    """Batch norm over all axes but the last, whose running statistics move in every training pass.

    As in Torch and Chainer, the running variance is the average of unbiased variances, while batches are normalised by
    biased ones.

    Attributes:
      gamma: float32 [C], or None if `scale` is false; likewise `beta` and `center`.
      moving_mean, moving_variance: float32 [C].
    """

    def __init__(
        self,
        epsilon: float,
        center: bool = True,
        gamma_initializer: Any = "ones",
        decay: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.epsilon, self.center, self.gamma_initializer, self.decay = epsilon, center, gamma_initializer, decay

    def build(self, shape: tf.TensorShape) -> None:
        size = [shape[-1]]
        self.gamma = self.add_weight("gamma", size, initializer=self.gamma_initializer)
        self.beta = self.add_weight("beta", size, initializer="zeros") if self.center else None
        of_batch = {
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.MEAN,
        }
        self.moving_mean = self.add_weight("moving_mean", size, initializer="zeros", **of_batch)
        self.moving_variance = self.add_weight("moving_variance", size, initializer="ones", **of_batch)

    def call(self, inputs: tf.Tensor, training: bool = False, update: bool = True) -> tf.Tensor:
        """Normalises by the batch's moments in training, else by the running ones.

        Args:
          inputs: float32 [N, ..., C].
          training: Whether to use the batch's moments.
          update: Whether to update the running statistics, in training.
        """
        if training:
            mean, variance = tf.nn.moments(inputs, list(range(len(inputs.shape) - 1)))
            if update:
                self._update(mean, variance, tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32))
        else:
            mean, variance = self.moving_mean, self.moving_variance
        return tf.nn.batch_normalization(inputs, mean, variance, self.beta, self.gamma, self.epsilon)

    def _update(self, mean: tf.Tensor, variance: tf.Tensor, count: tf.Tensor) -> None:
        """Moves the running statistics towards those of `count` values per channel."""
        unbiased = variance * count / tf.maximum(count - 1.0, 1.0)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign_add((1.0 - self.decay) * (tf.stop_gradient(value) - moving))


def leaky_relu(features: tf.Tensor) -> tf.Tensor:
    """Leaky ReLU with slope 0.2."""
    return tf.nn.leaky_relu(features, 0.2)
