"""Ways from one latent to another, and the clock of a clip whose latent moves."""

from __future__ import annotations

import numpy as np


def linear(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The straight line: (1 - w) * first + w * second.

    Half way between two latents drawn from U(-1, 1) each component has 0.71 times the spread that training has shown to
    the generator: what is seen there is as tame as with a truncation of 0.7.

    Args:
      first: [z_dim], in [-1, 1].
      second: [z_dim], in [-1, 1].
      weights: [S], from 0, the first, to 1, the second.
    Returns:
      float32 [S, z_dim], in [-1, 1].
    """
    w = np.asarray(weights, np.float64)[:, np.newaxis]
    return ((1.0 - w) * first + w * second).astype(np.float32)


def spherical(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The great circle between the latents' normal scores, Phi^-1((z + 1) / 2), mapped back into the cube.

    Between two latents drawn from U(-1, 1) every point of this way is distributed as they are, so that the generator
    sees nothing on it that training has not shown. (Spherical interpolation, White 2016, is made for normal latents.
    Of uniform ones it leaves the cube, up to a component of 1.41 half way, and a clipped one piles up on its faces.)

    Args and Returns are those of `linear`. Opposite latents, which have no one great circle, are joined by a line.
    """
    from scipy.special import ndtr, ndtri  # here, for `--help` is quick

    w = np.asarray(weights, np.float64)[:, np.newaxis]
    inside = 1.0 - 1e-7  # a latent may be -1, whose score is infinite
    a, b = (ndtri((np.clip(np.asarray(z, np.float64), -inside, inside) + 1.0) / 2.0) for z in (first, second))
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / lengths, -1.0, 1.0)) if lengths else 0.0
    if np.sin(angle) < 1e-6:
        between = (1.0 - w) * a + w * b
    else:
        between = (np.sin((1.0 - w) * angle) * a + np.sin(w * angle) * b) / np.sin(angle)
    return (2.0 * ndtr(between) - 1.0).astype(np.float32)


WAYS = {"linear": linear, "spherical": spherical}


def back_and_forth(length: int, num_frames: int) -> np.ndarray:
    """Frames of a clip of `num_frames` forwards, backwards, forwards ...: 0, 1, 2, 1, 0, 1 for a length of 6 and 3."""
    period = max(1, 2 * (num_frames - 1))
    phase = np.arange(length) % period
    return np.minimum(phase, period - phase)
