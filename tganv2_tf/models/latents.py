"""Latents from stateless seeds. A system's latent is one vector of parts with different distributions.

TGANv2 has one part, z ~ U(-1, 1) (arXiv 1811.09245).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import numpy as np
import tensorflow as tf

# Kind and size of each part, in the order of the vector: uniform = U(-1, 1), normal = N(0, 1), one_hot = a category
# drawn uniformly. A number is the size of a single uniform part.
Latent = Union[int, tuple[tuple[str, int], ...]]
KINDS = ("uniform", "normal", "one_hot")


def parts_of(latent: Latent) -> tuple[tuple[str, int], ...]:
    """Returns kind and size of each part."""
    return (("uniform", latent),) if isinstance(latent, int) else tuple(latent)


def size_of(latent: Latent) -> int:
    """Returns the number of dimensions."""
    return sum(size for _, size in parts_of(latent))


def kind_of_dimensions(latent: Latent) -> np.ndarray:
    """Returns the kind of each dimension, str [z_dim]."""
    return np.repeat(*map(np.array, zip(*parts_of(latent))))


def _sample_part(num: int | tf.Tensor, kind: str, size: int, seed: tf.Tensor) -> tf.Tensor:
    if kind == "uniform":
        return tf.random.stateless_uniform([num, size], seed, -1.0, 1.0)
    if kind == "normal":
        return tf.random.stateless_normal([num, size], seed)
    return tf.one_hot(tf.random.stateless_uniform([num], seed, 0, size, tf.int32), size)


def sample_latents(num: int | tf.Tensor, latent: Latent, seed: tf.Tensor) -> tf.Tensor:
    """Draws a batch of latents, float32 [num, z_dim], from one stateless seed, int32 or int64 [2]."""
    parts = parts_of(latent)
    seeds = [seed]
    if len(parts) > 1:  # a single part is drawn from the seed itself
        seeds = [tf.random.experimental.stateless_fold_in(seed, number) for number in range(len(parts))]
    drawn = [_sample_part(num, *part, part_seed) for part, part_seed in zip(parts, seeds)]
    return drawn[0] if len(drawn) == 1 else tf.concat(drawn, 1)


@tf.function(reduce_retracing=True, autograph=False)  # eager `map_fn` leaks a few KB per call
def latents_from_seeds(seeds: tf.Tensor, latent: Latent) -> tf.Tensor:
    """Draws one latent per seed, independent of the other seeds in the batch: int64 [N] -> float32 [N, z_dim]."""
    return tf.map_fn(
        lambda seed: sample_latents(1, latent, tf.stack([seed, 0]))[0],
        tf.cast(seeds, tf.int64),
        fn_output_signature=tf.TensorSpec([size_of(latent)], tf.float32),
    )


def truncate(z: np.ndarray, truncation: float, latent: Latent) -> np.ndarray:
    """Scales latents, float32 [..., z_dim], towards the mean. Categories are not changed."""
    scale = np.where(kind_of_dimensions(latent) == "one_hot", 1.0, truncation).astype(np.float32)
    return scale * z


def bounds(latent: Latent) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest value of each dimension, float32 [z_dim]; infinite if it is normal."""
    lowest, highest = {"uniform": -1.0, "normal": -np.inf, "one_hot": 0.0}, {"normal": np.inf}
    kinds = kind_of_dimensions(latent)
    return (
        np.array([lowest[kind] for kind in kinds], np.float32),
        np.array([highest.get(kind, 1.0) for kind in kinds], np.float32),
    )


def to_text(latent: Latent) -> str:
    """Returns the parts as text, such as `normal 50,one_hot 6`, for files of exported generators."""
    return ",".join(f"{kind} {size}" for kind, size in parts_of(latent))


def from_text(text: str) -> Latent:
    """Returns the latent whose `to_text` is given."""
    parts: Sequence[list[str]] = [part.split() for part in text.split(",")]
    return tuple((kind, int(size)) for kind, size in parts)
