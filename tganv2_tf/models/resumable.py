"""Videos of any length in parts: what generators with a recurrence have in common."""

from __future__ import annotations

import tensorflow as tf


class ResumableGenerator(tf.keras.Model):
    """Base class of generators that can resume a video from a state.

    Subclasses define `begin_features`, `resume_features` and `render`.
    """

    def begin(
        self, z: tf.Tensor, num_frames: int | tf.Tensor, level: int | None = None, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the result of `call` and the final state. `resume` continues from it in constant memory."""
        features, state = self.begin_features(z, num_frames, labels)
        return self.render(features, level, labels, z), state

    def resume(
        self,
        state: tf.Tensor,
        num_frames: int | tf.Tensor,
        level: int | None = None,
        labels: tf.Tensor | None = None,
        z: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Generates the next frames of videos.

        Args:
          state: Float tensor of shape `state_shape`, from `begin` or `resume`.
          num_frames: T, the number of new frames; a Python integer or an int32 scalar.
          level: As in `call`.
          labels, z: As passed to `begin`; z is required if `resume_needs_z`.
        Returns:
          float32 [N, T, H_l, W_l, 3] in [-1, 1], and the state after the last frame.
        """
        features, state = self.resume_features(state, num_frames, z)
        return self.render(features, level, labels, z), state
