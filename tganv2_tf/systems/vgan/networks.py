"""VGAN's networks (Vondrick, Pirsiavash & Torralba, arXiv 1609.02612), as in the authors' code."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Callable

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.systems.clip_generator import ClipGenerator
from tganv2_tf.systems.layers import BatchNorm, leaky_relu
from tganv2_tf.systems.vgan.config import SCALE, ModelConfig

GENERATOR_EPSILON, DISCRIMINATOR_EPSILON = 1e-5, 1e-3  # of batch norm


def narrow_normal() -> tf.keras.initializers.Initializer:
    """Returns the initialiser of kernels: N(0, 0.01)."""
    return tf.keras.initializers.RandomNormal(0.0, 0.01)


def batch_norm(epsilon: float, name: str) -> BatchNorm:
    """Creates a batch norm whose scales are drawn from N(1, 0.02)."""
    return BatchNorm(epsilon, gamma_initializer=tf.keras.initializers.RandomNormal(1.0, 0.02), name=name)


class Stream(layers.Layer):
    """Transposed convolutions from a latent to feature maps of half the final size; each has batch norm and ReLU."""

    def __init__(
        self, layer: type[layers.Layer], first_kernel: Sequence[int], channels: Sequence[int], name: str
    ) -> None:
        super().__init__(name=name)
        self.deconvolutions = [
            layer(
                count,
                4 if index else tuple(first_kernel),
                2 if index else 1,
                padding="same" if index else "valid",
                kernel_initializer=narrow_normal(),
                name=f"conv{index + 1}",
            )
            for index, count in enumerate(channels)
        ]
        self.norms = [batch_norm(GENERATOR_EPSILON, f"bn{index + 1}") for index in range(len(channels))]
        self.rank = len(first_kernel)

    def call(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns features [N, (T / 2,) H / 2, W / 2, C] of latents [N, z_dim]."""
        features = tf.reshape(z, [-1, *[1] * self.rank, z.shape[-1]])
        for deconvolution, norm in zip(self.deconvolutions, self.norms):
            features = tf.nn.relu(norm(deconvolution(features), training=training))
        return features


class Generator(ClipGenerator):
    """Two streams: a foreground with its mask, and a background image; video = m * f + (1 - m) * b (equation 2)."""

    config: ModelConfig

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        frames, size = config.num_frames // SCALE, config.resolution // SCALE
        volume, image = layers.Conv3DTranspose, layers.Conv2DTranspose
        self.foreground = Stream(volume, (frames, size, size), config.generator_channels, "foreground")
        self.background = Stream(image, (size, size), config.generator_channels, "background")
        self.to_colours = volume(3, 4, 2, "same", kernel_initializer=narrow_normal(), name="to_colours")
        self.to_mask = volume(1, 4, 2, "same", kernel_initializer=narrow_normal(), name="to_mask")
        self.to_background = image(3, 4, 2, "same", kernel_initializer=narrow_normal(), name="to_background")
        self(tf.zeros([1, config.z_dim]))

    def parts(self, z: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns foreground [N, T, H, W, 3] in [-1, 1], mask [N, T, H, W, 1] in [0, 1], background [N, H, W, 3]."""
        features = self.foreground(z, training=training)
        background = tf.tanh(self.to_background(self.background(z, training=training)))
        return tf.tanh(self.to_colours(features)), tf.sigmoid(self.to_mask(features)), background

    def clips_and_mask(self, z: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the clips, and the mask of their foreground."""
        foreground, mask, background = self.parts(z, training)
        return mask * foreground + (1.0 - mask) * background[:, tf.newaxis], mask

    def clips(self, z: tf.Tensor, training: bool) -> tf.Tensor:
        return self.clips_and_mask(z, training)[0]


class Discriminator(tf.keras.Model):
    """Classifies clips by convolutions over time and space: two logits, real and generated."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convolutions = [
            layers.Conv3D(count, 4, 2, padding="same", kernel_initializer=narrow_normal(), name=f"conv{number}")
            for number, count in enumerate(config.discriminator_channels, start=1)
        ]
        self.norms = [batch_norm(DISCRIMINATOR_EPSILON, f"bn{number}") for number in range(2, 5)]
        frames, size = config.num_frames // SCALE, config.resolution // SCALE
        self.to_logits = layers.Conv3D(2, (frames, size, size), kernel_initializer=narrow_normal(), name="conv5")
        self(tf.zeros([1, config.num_frames, config.resolution, config.resolution, 3]))

    def stages(self, training: bool, update: bool = True) -> list[Callable[[tf.Tensor], tf.Tensor]]:
        """Returns the layers and activations as functions, in order; `update` is that of the batch norms."""
        functions: list[Callable[[tf.Tensor], tf.Tensor]] = [self.convolutions[0], leaky_relu]
        for convolution, norm in zip(self.convolutions[1:], self.norms):
            normalise = functools.partial(norm.__call__, training=training, update=update)
            functions += [convolution, normalise, leaky_relu]
        return [*functions, self.to_logits]

    def activations(self, clips: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Returns the input of every stage, the clips first, and the logits [N, 1, 1, 1, 2] last."""
        values = [clips]
        for stage in self.stages(training):
            values.append(stage(values[-1]))
        return values

    def call(self, clips: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the logits: [N, T, H, W, 3] -> [N, 2], columns real and generated."""
        return self.activations(clips, training)[-1][:, 0, 0, 0]

    def gradient_of_clips(self, activations: Sequence[tf.Tensor], logits_gradient: tf.Tensor) -> tf.Tensor:
        """Passes a gradient of the logits back to the clips, with the current weights but given activations.

        Args:
          activations: Output of `activations`, perhaps with former weights.
          logits_gradient: [N, 2].
        Returns:
          [N, T, H, W, 3].
        """
        gradient = logits_gradient[:, tf.newaxis, tf.newaxis, tf.newaxis]
        for stage, inputs in zip(reversed(self.stages(True, update=False)), reversed(activations[:-1])):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(inputs)
                outputs = stage(inputs)
            gradient = tape.gradient(outputs, inputs, gradient)
        return gradient
