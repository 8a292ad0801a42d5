"""A generator to draw videos from, wherever it comes from: a run, a checkpoint, or an exported SavedModel."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Union

import numpy as np
import tensorflow as tf

from tganv2_tf import storage
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.models.latents import latents_from_seeds
from tganv2_tf.serving.signatures import ServedGenerator
from tganv2_tf.training.checkpoints import load_class_names, load_fps, load_generator
from tganv2_tf.videos import to_uint8

CHUNK_FRAMES = 16
Labels = Union[Sequence[int], np.ndarray, None]
FACTS = ("z_dim", "num_frames", "num_levels", "sizes", "class_names")


class Sampler:
    """Videos of a generator, from latents. The same latent gives the same video in every batch.

    Attributes:
      description: where the generator comes from.
      z_dim: dimensions of a latent.
      num_frames: frames of a training clip.
      num_levels: L.
      sizes: height and width of each level in pixels.
      class_names: in the order of the labels; empty where the generator is not conditional.
      fps: frames per second of the training clips; 0 if unknown.
    """

    def __init__(self, served: Any, description: str) -> None:
        """Args are a `ServedGenerator`, or what `tf.saved_model.load` made of one, and the description."""
        self._served = served
        self.description = description
        self.z_dim, self.num_frames, self.num_levels = (int(getattr(served, name)) for name in FACTS[:3])
        self.sizes = tuple(served.sizes.numpy().tolist())
        self.class_names = tuple(name.decode() for name in served.class_names.numpy())
        self.fps = float(served.fps) if hasattr(served, "fps") else 0.0  # exports of older versions have none

    def latents(self, seeds: Sequence[int], truncation: float = 1.0) -> np.ndarray:
        """One latent a seed, drawn from U(-psi, psi).

        Args:
          seeds: N numbers from 0 up to, not including, 2^63.
          truncation: psi; below 1 the videos are closer to the mean one, and to each other.
        Returns:
          float32 [N, z_dim].
        """
        return np.float32(truncation) * latents_from_seeds(tf.constant(seeds, tf.int64), self.z_dim).numpy()

    def float_videos(self, z: np.ndarray, num_frames: int = 0, level: int = 0, labels: Labels = None) -> np.ndarray:
        """Videos as the generator gives them.

        Args:
          z: float32 [N, z_dim], in [-1, 1].
          num_frames: T; 0 = as in training.
          level: from 1; 0 = the last, full resolution.
          labels: N numbers of classes, where there are classes.
        Returns:
          float32 [N, T, H_level, W_level, 3] in [-1, 1].
        Raises:
          ConfigError: no such level or class, or labels where there are no classes, or the other way round.
        """
        level, given = self._checked(len(z), level, labels)
        z = tf.convert_to_tensor(z, tf.float32)
        return self._served.sample(z, num_frames or self.num_frames, level, *given).numpy()

    def videos(self, z: np.ndarray, num_frames: int = 0, level: int = 0, labels: Labels = None) -> np.ndarray:
        """`float_videos` as bytes: uint8 [N, T, H_level, W_level, 3]."""
        return to_uint8(self.float_videos(z, num_frames, level, labels))

    def stream(
        self,
        z: np.ndarray,
        num_frames: int = 0,
        level: int = 0,
        labels: Labels = None,
        chunk: int = CHUNK_FRAMES,
    ) -> Iterator[np.ndarray]:
        """The frames of `videos` in parts, in memory that does not grow with their number.

        Args:
          z, num_frames, level, labels: as in `float_videos`.
          chunk: frames of a part; the last may have fewer.
        Yields:
          uint8 [N, t, H_level, W_level, 3].
        """
        level, given = self._checked(len(z), level, labels)
        rest = num_frames or self.num_frames
        videos, state = self._served.begin(tf.convert_to_tensor(z, tf.float32), min(chunk, rest), level, *given)
        yield to_uint8(videos.numpy())
        while rest := rest - videos.shape[1]:
            videos, state = self._served.resume(state, min(chunk, rest), level, *given)
            yield to_uint8(videos.numpy())

    def check_level(self, level: int) -> None:
        """Raises ConfigError where there is no such level; 0 stands for the last."""
        if not 0 <= level <= self.num_levels:
            raise ConfigError(
                f"--level={level}: the generator has {self.num_levels} levels; valid: 1 to {self.num_levels}"
            )

    def _checked(self, num: int, level: int, labels: Labels) -> tuple[int, list[tf.Tensor]]:
        """The level's number, and the labels as the served functions take them."""
        self.check_level(level)
        if (labels is not None) != bool(self.class_names):
            needs = "needs the class of each video" if self.class_names else "was not trained with classes"
            raise ConfigError(f"--labels: the generator {needs}")
        if labels is None:
            return level or self.num_levels, []
        if len(labels) != num or not all(0 <= label < len(self.class_names) for label in labels):
            raise ConfigError(
                f"--labels={','.join(map(str, labels))}: valid: {num} numbers from 0 to {len(self.class_names) - 1}"
            )
        return level or self.num_levels, [tf.convert_to_tensor(labels, tf.int32)]


def load_sampler(model_dir: str = "", saved_model: str = "") -> Sampler:
    """The averaged generator of a run, or an exported one.

    Args:
      model_dir: a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000.
      saved_model: instead of it, the folder of one version of a SavedModel.
    Raises:
      ConfigError: neither, or both.
      UserError: no run, checkpoint or SavedModel there, or one that is damaged, or no generator.
    """
    if bool(model_dir) == bool(saved_model):
        raise ConfigError("--model_dir or --saved_model, one of the two, must say where the generator is")
    if model_dir:
        generator, _, step = load_generator(model_dir)
        served = ServedGenerator(generator, load_class_names(model_dir), load_fps(model_dir))
        return Sampler(served, f"{model_dir}, step {step}")
    missing = f"--saved_model={saved_model}: no SavedModel there; name the folder NAME/VERSION"
    if storage.is_remote(saved_model) and not storage.exists(storage.join(saved_model, "saved_model.pb")):
        raise UserError(missing)
    try:
        served = storage.patiently(saved_model, lambda: tf.saved_model.load(saved_model))
    except (OSError, tf.errors.OpError) as error:
        raise UserError(missing) from error
    if not all(hasattr(served, name) for name in (*FACTS, "sample", "begin", "resume")):
        raise UserError(
            f"--saved_model={saved_model}: no generator that this version of tganv2_tf.export wrote; export it again"
        )
    return Sampler(served, saved_model)


# For processes of a cluster, which are asked again and again.
kept_sampler = functools.lru_cache(maxsize=1)(load_sampler)
