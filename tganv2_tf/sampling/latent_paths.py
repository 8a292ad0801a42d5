"""Interpolation between latents, and the order of frames in walks through the latent space."""

from __future__ import annotations

import numpy as np

from tganv2_tf.models.latents import Latent, kind_of_dimensions


def linear(first: np.ndarray, second: np.ndarray, weights: np.ndarray, latent: Latent | None = None) -> np.ndarray:
    """Interpolates linearly: (1 - w) * first + w * second. Categories are those of `first`.

    Halfway between two latents drawn from U(-1, 1), the standard deviation of each component is 0.71 times that of the
    prior. Videos there are as little varied as with a truncation of 0.7.

    Args:
      first: [z_dim].
      second: [z_dim].
      weights: [S], from 0 (`first`) to 1 (`second`).
      latent: distribution of the latents; None is U(-1, 1).
    Returns:
      float32 [S, z_dim].
    """
    w = np.asarray(weights, np.float64)[:, np.newaxis]
    points = (1.0 - w) * first + w * second
    return np.where(kind_of_dimensions(latent or len(first)) == "one_hot", first, points).astype(np.float32)


def spherical(first: np.ndarray, second: np.ndarray, weights: np.ndarray, latent: Latent | None = None) -> np.ndarray:
    """Interpolates along the great circle between normal scores. Categories are those of `first`.

    The scores of uniform dimensions are Phi^-1((z + 1) / 2), mapped back to [-1, 1]; those of normal ones are z.

    Between two latents drawn from U(-1, 1), every point follows the same distribution, so the generator sees only
    inputs like those in training. (Plain spherical interpolation, White, 2016, arXiv:1609.04468, assumes normal
    latents. For uniform ones, components reach 1.41 halfway, and clipping would concentrate them at the bounds.)

    Args and Returns are those of `linear`. For opposite latents, which have no unique great circle, the normal scores
    are interpolated linearly.
    """
    from scipy.special import ndtr, ndtri  # imported here to keep `--help` fast

    w = np.asarray(weights, np.float64)[:, np.newaxis]
    inside = 1.0 - 1e-7  # the score of -1 is infinite
    kinds = kind_of_dimensions(latent or len(first))

    def scores_of(z: np.ndarray) -> np.ndarray:
        uniform = ndtri((np.clip(np.asarray(z, np.float64), -inside, inside) + 1.0) / 2.0)
        return np.where(kinds == "uniform", uniform, np.where(kinds == "normal", z, 0.0))

    a, b = scores_of(first), scores_of(second)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / lengths, -1.0, 1.0)) if lengths else 0.0
    if np.sin(angle) < 1e-6:
        scores = (1.0 - w) * a + w * b
    else:
        scores = (np.sin((1.0 - w) * angle) * a + np.sin(w * angle) * b) / np.sin(angle)
    points = np.where(kinds == "uniform", 2.0 * ndtr(scores) - 1.0, scores)
    return np.where(kinds == "one_hot", first, points).astype(np.float32)


INTERPOLATIONS = {"linear": linear, "spherical": spherical}


def ping_pong(length: int, num_frames: int) -> np.ndarray:
    """Returns `length` frame indices that run back and forth through a clip: 0, 1, 2, 1, 0, 1 for (6, 3)."""
    period = max(1, 2 * (num_frames - 1))
    phase = np.arange(length) % period
    return np.minimum(phase, period - phase)
