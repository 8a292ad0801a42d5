"""Samples videos from a generator: from a run, a checkpoint, or an exported SavedModel."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Union

import numpy as np
import tensorflow as tf

from tganv2_tf import storage
from tganv2_tf.data.class_names import quoted
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.models import latents
from tganv2_tf.models.latents import Latent
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run
from tganv2_tf.serving.signatures import ServedGenerator
from tganv2_tf.video_io.videos import to_uint8

CHUNK_FRAMES = 16
Labels = Union[Sequence[Union[int, str]], np.ndarray, int, str, None]
METADATA = ("z_dim", "num_frames", "num_levels", "sizes", "class_names")


class Sampler:
    """Renders videos of a generator. The same seed or latent yields the same video in every batch.

    Attributes:
      description: origin of the generator.
      z_dim: dimensions of a latent.
      latent: distribution of the latents, see `models/latents.py`.
      fixed_length: whether all videos have `num_frames` frames.
      num_frames: frames of a training clip.
      num_levels: L.
      sizes: height and width of each level in pixels.
      resolution: height and width of the last level in pixels.
      class_names: in the order of the labels; empty for an unconditional generator.
      fps: frames per second of the training clips; 0 if unknown.
    """

    def __init__(self, served: Any, description: str) -> None:
        """Args are a `ServedGenerator`, or one loaded by `tf.saved_model.load`, and the description."""
        self._served = served
        self.description = description
        self.z_dim, self.num_frames, self.num_levels = (int(getattr(served, name)) for name in METADATA[:3])
        self.sizes = tuple(served.sizes.numpy().tolist())
        self.resolution = self.sizes[-1]
        self.class_names = tuple(name.decode() for name in served.class_names.numpy())
        # Exports of older versions lack these.
        self.fps = float(served.fps) if hasattr(served, "fps") else 0.0
        self._resume_needs_z = bool(getattr(served, "resume_needs_z", False))
        self.fixed_length = bool(getattr(served, "fixed_length", False))
        self.latent: Latent = self.z_dim
        if hasattr(served, "latent"):
            self.latent = latents.from_text(served.latent.numpy().decode())

    def latents(self, seeds: Sequence[int], truncation: float = 1.0) -> np.ndarray:
        """Draws one latent per seed.

        Args:
          seeds: N integers from 0 to 2^63 - 1.
          truncation: scale in (0, 1]; lower values give less varied videos, closer to the mean.
        Returns:
          float32 [N, z_dim].
        Raises:
          ValueError: there are no seeds, or an argument is out of its range.
        """
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation: {truncation}; valid: a number above 0, at most 1")
        seeds = _whole_numbers("seeds", seeds)
        if not seeds or not all(0 <= seed < 2**63 for seed in seeds):
            raise ValueError(f"seeds: {_shown(seeds)}; valid: whole numbers from 0 to 2^63 - 1, at least one")
        drawn = latents.latents_from_seeds(tf.constant(seeds, tf.int64), self.latent)
        return self.truncated(drawn.numpy(), truncation)

    def truncated(self, z: np.ndarray, truncation: float) -> np.ndarray:
        """Scales latents, float32 [..., z_dim], towards the mean."""
        return latents.truncate(z, truncation, self.latent)

    def float_videos(self, z: np.ndarray, num_frames: int = 0, level: int = 0, labels: Labels = None) -> np.ndarray:
        """Renders videos from latents, as floats.

        Args:
          z: float32 [N, z_dim].
          num_frames: T; 0 = as in training.
          level: from 1; 0 = the last, full resolution.
          labels: N classes, by number or name, or one for all; required by a conditional generator, else None.
        Returns:
          float32 [N, T, H_level, W_level, 3] in [-1, 1].
        Raises:
          ValueError: the level or a class does not exist, the shape is wrong, labels are missing, or labels are given
            to an unconditional generator.
        """
        z, num_frames, level, given = self._checked(z, num_frames, level, labels)
        return self._served.sample(z, num_frames, level, *given).numpy()

    def render(self, z: np.ndarray, num_frames: int = 0, level: int = 0, labels: Labels = None) -> np.ndarray:
        """Renders videos like `float_videos`, as uint8 [N, T, H_level, W_level, 3]."""
        return to_uint8(self.float_videos(z, num_frames, level, labels))

    def videos(
        self,
        seeds: Sequence[int],
        labels: Labels = None,
        num_frames: int = 0,
        level: int = 0,
        truncation: float = 1.0,
    ) -> np.ndarray:
        """Renders videos from seeds, as `tganv2_tf.generate` does.

        Memory use grows with N and T; `stream` renders long videos in chunks.

        Args:
          seeds: N integers from 0 to 2^63 - 1.
          labels: of a conditional generator, N classes by number or name, or one for all; None = seed % num_classes.
          num_frames: T; 0 = as in training.
          level: from 1; 0 = the last, full resolution.
          truncation: scale of the latents in (0, 1].
        Returns:
          uint8 [N, T, H_level, W_level, 3].
        Raises:
          ValueError: an argument is out of its range.
        """
        z = self.latents(seeds, truncation)
        if labels is None and self.class_names:
            labels = [int(seed) % len(self.class_names) for seed in seeds]
        return self.render(z, num_frames, level, labels)

    def stream(
        self,
        z: np.ndarray,
        num_frames: int = 0,
        level: int = 0,
        labels: Labels = None,
        chunk: int = CHUNK_FRAMES,
    ) -> Iterator[np.ndarray]:
        """Renders videos from latents in chunks of frames. Memory use does not depend on the video length.

        Args:
          z, num_frames, level, labels: as in `float_videos`.
          chunk: frames per chunk; the last one may have fewer.
        Yields:
          uint8 [N, t, H_level, W_level, 3].
        """
        z, rest, level, given = self._checked(z, num_frames, level, labels)
        if self.fixed_length:  # rendered at once
            video = to_uint8(self._served.sample(z, rest, level, *given).numpy())
            yield from (video[:, first : first + chunk] for first in range(0, rest, chunk))
            return
        videos, state = self._served.begin(z, min(chunk, rest), level, *given)
        yield to_uint8(videos.numpy())
        needed = [z] if self._resume_needs_z else []
        while rest := rest - videos.shape[1]:
            videos, state = self._served.resume(state, min(chunk, rest), level, *needed, *given)
            yield to_uint8(videos.numpy())

    def _checked(
        self, z: Any, num_frames: int, level: int, labels: Labels
    ) -> tuple[tf.Tensor, int, int, list[tf.Tensor]]:
        """Validates the arguments and converts them for the served functions."""
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or not len(z) or z.shape[1] != self.z_dim:
            raise ValueError(f"z: shape {list(z.shape)}; valid: [N, {self.z_dim}], N at least 1")
        num_frames, level = _whole_number("num_frames", num_frames), _whole_number("level", level)
        if num_frames < 0:
            raise ValueError(f"num_frames: {num_frames}; valid: at least 1, or 0 for as many as in training")
        if self.fixed_length and num_frames not in (0, self.num_frames):
            raise ValueError(f"num_frames: {num_frames}; valid: {self.num_frames}, the length of all videos, or 0")
        if not 0 <= level <= self.num_levels:
            raise ValueError(f"level: {level}; valid: 1 to {self.num_levels}, or 0 for the last")
        if labels is None and self.class_names:
            raise ValueError(f"labels: the generator needs the class of each video; valid: {self._valid_labels()}")
        given = [] if labels is None else [tf.constant(self._labels(labels, len(z)), tf.int32)]
        return tf.constant(z), num_frames or self.num_frames, level or self.num_levels, given

    def _labels(self, labels: Labels, num: int) -> list[int]:
        """Returns the class number of each video."""
        if not self.class_names:
            raise ValueError("labels: the generator was not trained with classes; omit them")
        several = [labels] * num if isinstance(labels, str) or np.ndim(labels) == 0 else list(labels)  # type: ignore[arg-type]
        if len(several) != num:
            raise ValueError(f"labels: {len(several)} for {num} videos; valid: one per video, or one for all")
        numbers = []
        for label in several:
            known = label in self.class_names if isinstance(label, str) else label in range(len(self.class_names))
            if not known:
                raise ValueError(f"labels: {label!r} is not a class; valid: {self._valid_labels()}")
            numbers.append(self.class_names.index(label) if isinstance(label, str) else int(label))  # type: ignore[arg-type]
        return numbers

    def _valid_labels(self) -> str:
        return f"0 to {len(self.class_names) - 1}, or {quoted(self.class_names)}"


def _whole_number(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name}: {value!r}; valid: a whole number") from error


def _whole_numbers(name: str, values: Any) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError as error:
        raise ValueError(f"{name}: {values!r}; valid: a sequence of whole numbers") from error


def _shown(values: list[int]) -> str:
    return f"{str(values)[:60]}..." if len(str(values)) > 60 else str(values)


def load_sampler(model_dir: str = "", saved_model: str = "") -> Sampler:
    """Loads the averaged generator of a run, or an exported one. `load` accepts a path to either.

    Args:
      model_dir: a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000.
      saved_model: folder of one version of a SavedModel, instead of `model_dir`.
    Raises:
      ConfigError: neither or both are set.
      UserError: the run, checkpoint or SavedModel does not exist, is damaged, or holds no generator.
    """
    if bool(model_dir) == bool(saved_model):
        raise ConfigError("specify exactly one of --model_dir and --saved_model")
    if model_dir:
        run = Run.open(model_dir)
        generator, step = load_generator(run)
        served = ServedGenerator(generator, run.class_names, run.fps)
        return Sampler(served, f"{model_dir}, step {step}")
    missing = f"{saved_model}: no SavedModel found; specify the folder NAME/VERSION"
    if not is_saved_model(saved_model):
        raise UserError(missing)
    with storage.folder_on_disk(saved_model) as local:
        try:
            served = tf.saved_model.load(local)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(missing) from error
    if not all(hasattr(served, name) for name in (*METADATA, "sample")):
        raise UserError(f"{saved_model}: not exported by this version of tganv2_tf.export; export it again")
    return Sampler(served, saved_model)


def is_saved_model(path: str) -> bool:
    """Returns whether the path is the folder of one version of a SavedModel."""
    return storage.exists(storage.join(path, "saved_model.pb"))


def load(path: str) -> Sampler:
    """Loads the generator at a path: a run, a checkpoint, or a SavedModel. See `load_sampler`."""
    return load_sampler(saved_model=path) if is_saved_model(path) else load_sampler(model_dir=path)


# For worker processes, which need the same sampler in many tasks.
cached_sampler = functools.lru_cache(maxsize=1)(load_sampler)
