"""MoCoGAN's networks (Tulyakov, Liu, Yang & Kautz, arXiv 1707.04993), with the shapes of the authors' code."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.resumable import ResumableGenerator
from tganv2_tf.systems.layers import BatchNorm
from tganv2_tf.systems.mocogan.config import SCALE, ModelConfig

EPSILON = 1e-5  # of batch norm


def kernel_initializer() -> tf.keras.initializers.Initializer:
    """Returns PyTorch's default: U(-1 / sqrt(n), 1 / sqrt(n)), n = channels * taps.

    The channels are the inputs of a convolution, and the outputs of a transposed one.
    """
    return tf.keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


class GRU(layers.Layer):
    """Gated recurrent unit of PyTorch (Cho et al., arXiv 1406.1078), with gates in the order r, z, n.

    r and z are sigmoids of linear maps of input x and state h, n = tanh(W x + b + r * (U h + c)), and the next state is
    (1 - z) * n + z * h.

    Attributes:
      units: M, size of input and state.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.units = units

    def build(self, shape: tf.TensorShape) -> None:
        limit = self.units**-0.5
        kernel, bias = [self.units, 3 * self.units], [3 * self.units]
        self.input_kernel, self.recurrent_kernel, self.input_bias, self.recurrent_bias = (
            self.add_weight(name, shape, initializer=tf.keras.initializers.RandomUniform(-limit, limit))
            for name, shape in (
                ("input_kernel", kernel),
                ("recurrent_kernel", kernel),
                ("input_bias", bias),
                ("recurrent_bias", bias),
            )
        )

    def call(self, inputs: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """Returns the states after each input.

        A known number of inputs unrolls the graph; otherwise it has a loop.

        Args:
          inputs: float32 [N, T, M].
          state: float32 [N, M], before the first input.
        Returns:
          float32 [N, T, M].
        """
        kernel, bias = tf.convert_to_tensor(self.recurrent_kernel), tf.convert_to_tensor(self.recurrent_bias)

        def step(state: tf.Tensor, driven: tf.Tensor) -> tf.Tensor:
            (reset, update, new), recurrent = tf.split(driven, 3, -1), tf.split(tf.matmul(state, kernel) + bias, 3, -1)
            reset, update = tf.sigmoid(reset + recurrent[0]), tf.sigmoid(update + recurrent[1])
            return (1.0 - update) * tf.tanh(new + reset * recurrent[2]) + update * state

        driven = tf.matmul(tf.reshape(inputs, [-1, self.units]), self.input_kernel) + self.input_bias
        frames = inputs.shape[1] or tf.shape(inputs)[1]
        driven = tf.reshape(driven, [-1, frames, 3 * self.units])
        if inputs.shape[1] is None:
            return tf.transpose(tf.scan(step, tf.transpose(driven, [1, 0, 2]), state), [1, 0, 2])
        states = [state]
        for share in tf.unstack(driven, axis=1):
            states.append(step(states[-1], share))
        return tf.stack(states[1:], 1)


class ImageGenerator(layers.Layer):
    """Maps the code of a frame to the frame by transposed convolutions without biases."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        size = config.resolution // SCALE
        self.deconvolutions = [
            layers.Conv2DTranspose(
                channels,
                4 if index else size,
                2 if index else 1,
                padding="same" if index else "valid",
                use_bias=False,
                kernel_initializer=kernel_initializer(),
                name=f"conv{index}",
            )
            for index, channels in enumerate([*(config.generator_width * n for n in (8, 4, 2, 1)), 3])
        ]
        self.norms = [BatchNorm(EPSILON, name=f"bn{index}") for index in range(4)]

    def call(self, codes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns frames in [-1, 1]: [M, C] -> [M, H, W, 3]."""
        features = codes[:, tf.newaxis, tf.newaxis]
        for deconvolution, norm in zip(self.deconvolutions, self.norms):
            features = tf.nn.relu(norm(deconvolution(features), training=training))
        return tf.tanh(self.deconvolutions[-1](features))


@tf.function(reduce_retracing=True, autograph=False)  # eager `map_fn` leaks a few KB per call
def noise_of_frames(seeds: tf.Tensor, frames: tf.Tensor, size: int) -> tf.Tensor:
    """Draws the motion noise of frames; each number depends only on the sample's seed and the frame.

    Args:
      seeds: int32 [N, 2].
      frames: int32 [N, T], numbers of the frames.
      size: M.
    Returns:
      float32 [N, T, M], from N(0, 1).
    """

    def draw(seed_and_frame: tf.Tensor) -> tf.Tensor:
        seed = tf.random.experimental.stateless_fold_in(seed_and_frame[:2], seed_and_frame[2])
        return tf.random.stateless_normal([size], seed)

    shape = tf.shape(frames)
    each = tf.concat([tf.repeat(seeds, shape[1], axis=0), tf.reshape(frames, [-1, 1])], 1)
    drawn = tf.map_fn(draw, each, fn_output_signature=tf.TensorSpec([size], tf.float32))
    return tf.reshape(drawn, [shape[0], shape[1], size])


class Generator(ResumableGenerator):
    """A recurrence computes the motion, and an image generator draws each frame from content, category and motion.

    It has the same interface as TGANv2's generator. The features that are computed first are the motion, [N, T, M]. The
    state between two parts of a video is the state of the recurrence and the number of the next frame, [N, M + 1].

    Attributes:
      config: The settings.
    """

    resume_needs_z = True

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.conditional and not config.num_classes:
            raise ValueError("a conditional generator needs num_classes")
        self.config = config
        self.recurrence = GRU(config.motion_dim, name="recurrence")
        self.image = ImageGenerator(config, name="image")
        self(tf.zeros([1, config.z_dim]), labels=tf.zeros([1], tf.int32) if config.conditional else None)

    @property
    def feature_shape(self) -> list[int | None]:
        """Shape of the features that `render` accepts, the motion: [N, T, motion_dim]."""
        return [None, None, self.config.motion_dim]

    @property
    def state_shape(self) -> list[int | None]:
        """Shape of the state between two calls of `begin` or `resume`: [N, motion_dim + 1]."""
        return [None, self.config.motion_dim + 1]

    def _given_motion(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the initial state [N, M] and the noise of the frames of a training clip, [N, num_frames, M]."""
        config = self.config
        vectors = tf.reshape(
            z[:, config.content_dim : config.num_normal], [-1, 1 + config.num_frames, config.motion_dim]
        )
        return vectors[:, 0], vectors[:, 1:]

    def _noise(self, z: tf.Tensor, first: tf.Tensor, num_frames: int | tf.Tensor) -> tf.Tensor:
        """Returns the motion noise of consecutive frames, also of those after a training clip.

        The latter are drawn from bits of the latent's motion, so they depend neither on the batch nor on the part of
        the video that is computed.

        Args:
          z: float32 [N, z_dim].
          first: int32 [N], number of the first frame, from 0.
          num_frames: T.
        Returns:
          float32 [N, T, M].
        """
        length, start = self.config.num_frames, self.config.content_dim
        _, given = self._given_motion(z)
        frames = first[:, tf.newaxis] + tf.range(num_frames)
        is_given = frames < length
        noise = tf.gather(given, tf.minimum(frames, length - 1), batch_dims=1)

        def with_later_frames() -> tf.Tensor:
            seeds = tf.bitcast(z[:, start : start + 2], tf.int32)
            later = noise_of_frames(seeds, frames, self.config.motion_dim)
            return tf.where(is_given[..., tf.newaxis], noise, later)

        return tf.cond(tf.reduce_all(is_given), lambda: tf.identity(noise), with_later_frames)

    def begin_features(
        self, z: tf.Tensor, num_frames: int | tf.Tensor, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the motion of the first frames, of shape `feature_shape`, and the state after them."""
        config = self.config
        if len(z.shape) != 2 or z.shape[-1] != config.z_dim:
            raise ValueError(f"z has shape {z.shape}; expected [N, {config.z_dim}]")
        start, noise = self._given_motion(z)
        if isinstance(num_frames, int) and 1 <= num_frames <= config.num_frames:
            return self._unroll(start, noise[:, :num_frames], tf.zeros_like(start[:, 0]))
        first = tf.zeros_like(start[:, 0], tf.int32)
        return self._unroll(start, self._noise(z, first, num_frames), tf.zeros_like(start[:, 0]))

    def resume_features(
        self, state: tf.Tensor, num_frames: int | tf.Tensor, z: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the motion of the next frames, and the state after them. z is that of `begin_features`."""
        if z is None:
            raise ValueError("z is missing; it has the motion noise of the next frames")
        first = state[:, -1]
        return self._unroll(state[:, :-1], self._noise(z, tf.cast(first, tf.int32), num_frames), first)

    def _unroll(self, hidden: tf.Tensor, noise: tf.Tensor, first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the recurrence; `first` is the number of the first frame, float32 [N]."""
        motion = self.recurrence(noise, hidden)
        following = first + tf.cast(tf.shape(noise)[1], tf.float32)
        return motion, tf.concat([motion[:, -1], following[:, tf.newaxis]], 1)

    def _categories(self, z: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        """Returns the category of each sample as a vector, [N, categories]."""
        if (labels is None) == self.config.conditional:
            raise ValueError("labels are for a conditional generator" if labels is not None else "labels are missing")
        return z[:, self.config.num_normal :] if labels is None else tf.one_hot(labels, self.config.num_classes)

    def draw(self, motion: tf.Tensor, z: tf.Tensor, labels: tf.Tensor | None, training: bool) -> tf.Tensor:
        """Draws frames.

        Args:
          motion: float32 [N, T, M].
          z: float32 [N, z_dim].
          labels: int [N], in a conditional model.
          training: Whether to normalise by the moments of all N * T frames.
        Returns:
          float32 [N, T, H, W, 3] in [-1, 1].
        """
        num, frames = motion.shape[0] or tf.shape(motion)[0], motion.shape[1] or tf.shape(motion)[1]
        still = tf.concat([z[:, : self.config.content_dim], self._categories(z, labels)], 1)
        codes = tf.concat([tf.repeat(still[:, tf.newaxis], frames, axis=1), motion], 2)
        images = self.image(tf.reshape(codes, [-1, codes.shape[-1]]), training=training)
        return tf.reshape(images, [num, frames, *images.shape[1:]])

    def images(
        self, z: tf.Tensor, frames: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Generates one frame of each clip.

        Args:
          z: float32 [N, z_dim].
          frames: int32 [N], from 0 to num_frames - 1.
          labels: int [N], in a conditional model.
          training: Whether to normalise by the moments of the N frames.
        Returns:
          float32 [N, H, W, 3] in [-1, 1].
        """
        motion, _ = self.begin_features(z, self.config.num_frames)
        return self.draw(tf.gather(motion, frames[:, tf.newaxis], batch_dims=1), z, labels, training)[:, 0]

    def render(
        self,
        features: tf.Tensor,
        level: int | None = None,
        labels: tf.Tensor | None = None,
        z: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Draws all frames of videos with the running batch-norm statistics.

        Args:
          features: Motion, float32 [N, T, M].
          level: None or 1.
          labels: int [N], in a conditional model.
          z: float32 [N, z_dim].
        Returns:
          float32 [N, T, H, W, 3] in [-1, 1].
        Raises:
          ValueError: The level does not exist, or z or labels are missing or unexpected.
        """
        if level not in (None, 1):
            raise ValueError(f"level {level} does not exist; valid: 1")
        if z is None:
            raise ValueError("z is missing; it has the content of the videos")
        return self.draw(features, z, labels, training=False)

    def call(
        self,
        z: tf.Tensor,
        num_frames: int | tf.Tensor | None = None,
        level: int | None = None,
        labels: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Generates videos, by default with the running batch-norm statistics.

        Args:
          z: float32 [N, z_dim].
          num_frames: T, a Python integer or an int32 scalar; None is the length of a training clip.
          level: None or 1.
          labels: int [N] in 0..num_classes - 1, in a conditional model.
          training: Whether to normalise by the batch's moments.
        Returns:
          float32 [N, T, H, W, 3] in [-1, 1].
        Raises:
          ValueError: The level does not exist, z has another shape, or labels are missing or unexpected.
        """
        features, _ = self.begin_features(z, self.config.num_frames if num_frames is None else num_frames)
        return self.draw(features, z, labels, training) if training else self.render(features, level, labels, z)
