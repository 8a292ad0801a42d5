"""MoCoGAN's discriminators (Tulyakov, Liu, Yang & Kautz, arXiv 1707.04993)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.systems.layers import BatchNorm, leaky_relu
from tganv2_tf.systems.mocogan.config import LOST_FRAMES, SCALE, ModelConfig
from tganv2_tf.systems.mocogan.networks import EPSILON, kernel_initializer


class Logits(NamedTuple):
    """Output of a discriminator.

    Attributes:
      real: Whether the input is real: [N] or, of patches, [N, (T',) H', W'].
      categories: Its category, [..., K]; K may be 0.
    """

    real: tf.Tensor
    categories: tf.Tensor


def noise_like(features: tf.Tensor, seed: tf.Tensor, number: int) -> tf.Tensor:
    """Draws N(0, 1) in the shape of the input of noise layer `number`."""
    shape = [size or tf.shape(features)[axis] for axis, size in enumerate(features.shape)]
    return tf.random.stateless_normal(shape, tf.random.experimental.stateless_fold_in(seed, number))


class Discriminator(tf.keras.Model):
    """Classifies images or clips by convolutions of kernel 4 without biases.

    All layers but perhaps the last have stride 2 and padding 1 over height and width, and neither over time. Noise is
    added to their inputs. The last layer of a full discriminator covers the whole of its input.
    """

    def __init__(self, shape: Sequence[int], width: int, patch: bool, sigma: float, categories: int = 0, **kwargs: Any):
        """
        Args:
          shape: [H, W, 3] of images or [T, H, W, 3] of clips.
          width: Channels of the first layer.
          patch: Whether there is a logit for each patch.
          sigma: Deviation of the noise.
          categories: K, logits of categories; 0 with `patch`.
        """
        super().__init__(**kwargs)
        clips = len(shape) == 4
        channels = [width * 2**index for index in range(3 if patch else 4)]
        stride: Any = (1, 2, 2) if clips else 2
        size = shape[-2] // SCALE
        whole: Any = (shape[0] - LOST_FRAMES, size, size) if clips else size
        each = [(count, 4, stride) for count in channels]
        each.append((1 + categories, *((4, stride) if patch else (whole, 1))))
        layer = layers.Conv3D if clips else layers.Conv2D
        self.convolutions = [
            layer(*sizes, use_bias=False, kernel_initializer=kernel_initializer(), name=f"conv{index}")
            for index, sizes in enumerate(each)
        ]
        self.norms = [BatchNorm(EPSILON, name=f"bn{index}") for index in range(1, len(channels))]
        self.sigma, self.patch = sigma, patch
        self.num_padded = len(channels) + patch  # convolutions whose inputs are padded
        self.num_noisy = len(channels) + (patch and not clips)  # convolutions whose inputs have noise
        self(tf.zeros([1, *shape]))

    def _convolve(self, number: int, features: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Applies convolution `number` with noise and padding."""
        if self.sigma and seed is not None and number < self.num_noisy:
            features += self.sigma * noise_like(features, seed, number)
        if number < self.num_padded:
            features = tf.pad(features, [[0, 0]] * (len(features.shape) - 3) + [[1, 1], [1, 1], [0, 0]])
        return self.convolutions[number](features)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Logits:
        """Classifies images or clips.

        Args:
          inputs: float32 [N, (T,) H, W, 3] in [-1, 1].
          training: Whether to normalise by the batch's moments.
          seed: Stateless seed of the noise, [2]; None = no noise.
        """
        features = leaky_relu(self._convolve(0, inputs, seed))
        for number, norm in enumerate(self.norms, start=1):
            features = leaky_relu(norm(self._convolve(number, features, seed), training=training))
        logits = self._convolve(len(self.norms) + 1, features, seed)
        if not self.patch:
            logits = tf.reshape(logits, [-1, logits.shape[-1]])
        return Logits(logits[..., 0], logits[..., 1:])


def make_discriminator(name: str, config: ModelConfig) -> Discriminator:
    """Creates the discriminator of images or of videos, given its name in `DISCRIMINATORS`."""
    frame, is_of_images = [config.resolution, config.resolution, 3], name == "image_discriminator"
    return Discriminator(
        frame if is_of_images else [config.num_frames, *frame],
        getattr(config, f"{name}_width"),
        getattr(config, name) == "patch",
        config.noise_sigma,
        0 if is_of_images else config.recognised_categories,
        name=name,
    )
