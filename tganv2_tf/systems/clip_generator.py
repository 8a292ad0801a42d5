"""Base class of generators that render all frames of a clip at once."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tganv2_tf.systems.system_config import SystemConfig


class ClipGenerator(tf.keras.Model):
    """Generator of clips of fixed length and one resolution. Subclasses define `clips`.

    It has the same interface as TGANv2's generator. The features that are computed first are the clips themselves, and
    there is no state from which a clip could be continued.

    Attributes:
      config: The settings.
    """

    resume_needs_z = False

    def __init__(self, config: SystemConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config

    def clips(self, z: tf.Tensor, training: bool) -> tf.Tensor:
        """Generates clips.

        Args:
          z: float32 [N, z_dim].
          training: Whether to normalise by the batch's moments.
        Returns:
          float32 [N, num_frames, H, W, 3] in [-1, 1].
        """
        raise NotImplementedError

    @property
    def feature_shape(self) -> list[int | None]:
        """Shape of the features that `render` accepts, which are the clips: [N, T, H, W, 3]."""
        return [None, self.config.num_frames, self.config.resolution, self.config.resolution, 3]

    def begin_features(
        self, z: tf.Tensor, num_frames: int | tf.Tensor, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the clips, and an empty state."""
        return self(z), tf.zeros([0])

    def render(
        self,
        features: tf.Tensor,
        level: int | None = None,
        labels: tf.Tensor | None = None,
        z: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the clips that `begin_features` returned."""
        return features

    def call(
        self,
        z: tf.Tensor,
        num_frames: int | None = None,
        level: int | None = None,
        labels: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Generates clips, by default with the running batch-norm statistics.

        Args:
          z: float32 [N, z_dim].
          num_frames: None or `config.num_frames`.
          level: None or 1.
          labels: None.
          training: Whether to normalise by the batch's moments.
        Returns:
          float32 [N, num_frames, H, W, 3] in [-1, 1].
        Raises:
          ValueError: The length or level does not exist, z has another shape, or there are labels.
        """
        if num_frames not in (None, self.config.num_frames) or level not in (None, 1) or labels is not None:
            raise ValueError(f"{num_frames} frames at level {level}; valid: {self.config.num_frames} at level 1")
        if len(z.shape) != 2 or z.shape[-1] != self.config.z_dim:
            raise ValueError(f"z has shape {z.shape}; expected [N, {self.config.z_dim}]")
        return self.clips(z, training)
