"""Generators to score. Every process of a cluster can load the same one and render the same videos."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from tganv2_tf import ray_cluster
from tganv2_tf.config import Config
from tganv2_tf.data.manifest import checksums, folder_checksum
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.evaluation import samples
from tganv2_tf.evaluation.networks import (
    NetworkFiles,
    NetworkOutputs,
    explain_out_of_memory,
    extract_batch_features,
    load_networks,
)
from tganv2_tf.models.latents import Latent
from tganv2_tf.models.recalibration import recalibrate
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run, checkpoint_files
from tganv2_tf.sampling.sampler import load_sampler
from tganv2_tf.systems import model_class

T = TypeVar("T")
MAX_BYTES_IN_TRANSIT = 2**30  # of videos in transit to nodes


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """Specifies a generator and its videos.

    Attributes:
      run: the run, with its checkpoint.
      untrained: use the run's generator with its initial weights.
      saved_model: folder of one version of a SavedModel, instead of `run`.
      seed: seed of the latents.
      truncation: psi, scale of the latents.
      first_frame: first of the 16 frames to score, from 0.
      recalibration_batches: batches used to recompute the batch-norm statistics of a run's generator; 0 = keep them.
    """

    run: Run | None = None
    untrained: bool = False
    saved_model: str = ""
    seed: int = 0
    truncation: float = 1.0
    first_frame: int = 0
    recalibration_batches: int = 0


class LoadedGenerator(NamedTuple):
    """A loaded generator to score.

    Attributes:
      sample: float32 [n, z_dim], and int32 labels [n] or None -> float32 [n, 16, H, W, 3].
      latent: distribution of the latents.
      class_names: empty for an unconditional generator.
      about: its origin, for the report.
      config: the config of its run; None for a SavedModel.
    """

    sample: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]
    latent: Latent
    class_names: tuple[str, ...]
    about: dict[str, Any]
    config: Config | None

    def batch(self, spec: GeneratorSpec, number: int, size: int) -> tf.Tensor:
        """Renders batch `number` of the generator, float32 [size, 16, H, W, 3]; it is the same on every machine."""
        return samples.generator_batch(
            self.sample, self.latent, spec.seed, number, size, len(self.class_names), spec.truncation
        )


@functools.lru_cache(maxsize=1)  # a worker process calls this once per batch
def load_scored_generator(spec: GeneratorSpec) -> LoadedGenerator:
    """Loads the generator.

    Raises:
      ConfigError: `untrained` is set, but the run was initialized from another run.
      UserError: there is no generator.
    """
    about: dict[str, Any] = {"truncation": spec.truncation, "first_frame": spec.first_frame}
    first, num_frames = spec.first_frame, spec.first_frame + samples.NUM_FRAMES
    if spec.saved_model:
        sampler = load_sampler(saved_model=spec.saved_model)
        about |= {"saved_model": spec.saved_model, "checksum": folder_checksum(spec.saved_model)}
        length = scored_length(sampler.num_frames, sampler.fixed_length, num_frames)
        return LoadedGenerator(
            lambda z, labels: sampler.float_videos(z, length, labels=labels)[:, first:num_frames],
            sampler.latent,
            sampler.class_names,
            about,
            None,
        )
    run = spec.run
    assert run is not None
    if spec.untrained:
        config, step = run.config, 0
        if config.train.init_from:
            raise ConfigError(f"--untrained: the run was initialized from {config.train.init_from}; score that run")
        tf.keras.utils.set_random_seed(config.train.seed)  # as at the start of training
        generator = model_class(config.system).make_generator(config.model)
    else:
        generator, step = load_generator(run)
        config, about["checkpoint"] = run.config, checksums(checkpoint_files(run.checkpoint or ""))
    if spec.recalibration_batches:
        recalibrate(generator, spec.recalibration_batches, config.train.seed)
    length = scored_length(config.model.num_frames, config.model.FIXED_LENGTH, num_frames)
    sample = tf.function(
        lambda z, labels: generator(z, num_frames=length, labels=labels)[:, first:num_frames],
        reduce_retracing=True,
        autograph=False,
    )
    about |= {"step": step, "config": config.as_dict()}
    return LoadedGenerator(sample, config.model.latent, run.class_names, about, config)


def scored_length(trained: int, is_fixed: bool, needed: int) -> int:
    """Returns the length of the videos to render, of which the frames up to `needed` are scored.

    Raises:
      UserError: the generator renders `trained` frames only, and fewer than `needed`.
    """
    if not is_fixed:
        return needed
    if trained < needed:
        raise UserError(f"the generator renders videos of {trained} frames only; the scores need {needed}")
    return trained


def remote_features(
    spec: GeneratorSpec, files: NetworkFiles, options: ray_cluster.RunnerOptions
) -> Iterator[NetworkOutputs]:
    """Renders videos and computes their network outputs on the nodes of a cluster. Yields batches in order.

    Args:
      spec: a generator that all nodes can read.
      files: networks that all nodes can read; its config also sets `eval_batch_size`, `num_samples` and `repetitions`.
      options: options of the cluster.
    """
    config = files.config
    count = math.ceil(config.num_samples * config.repetitions / config.eval_batch_size)
    function = functools.partial(_generate_and_extract, spec=_spec_for_nodes(spec), files=_files_for_nodes(files))
    return (outputs for _, outputs in ray_cluster.run_tasks(function, range(count), options, ordered=True))


def remote_feature_extraction(
    batches: samples.Batches, kinds: Collection[str], files: NetworkFiles, options: ray_cluster.RunnerOptions
) -> Iterator[NetworkOutputs]:
    """Computes network outputs of local videos on the nodes of a cluster. Yields batches in order.

    Args:
      batches: float32 [n, 16, H, W, 3] in [-1, 1].
      kinds: names of the networks.
      files: networks that all nodes can read.
      options: options of the cluster.
    """
    function = functools.partial(_extract, kinds=tuple(kinds), files=_files_for_nodes(files))
    arrays = (batch.numpy() for batch in batches)
    for first in arrays:  # no later batch is larger
        at_once, all_of_them = max(2, MAX_BYTES_IN_TRANSIT // first.nbytes), itertools.chain([first], arrays)
        for _, outputs in ray_cluster.run_tasks(function, all_of_them, options, at_once=at_once, ordered=True):
            yield outputs


def _generate_and_extract(number: int, spec: GeneratorSpec, files: NetworkFiles) -> NetworkOutputs:
    with explain_out_of_memory():
        videos = load_scored_generator(spec).batch(spec, number, files.config.eval_batch_size)
        return extract_batch_features(videos, files.kinds, load_networks(files))


def _extract(videos: np.ndarray, kinds: Collection[str], files: NetworkFiles) -> NetworkOutputs:
    with explain_out_of_memory():
        return extract_batch_features(tf.constant(videos), kinds, load_networks(files))


def _spec_for_nodes(spec: GeneratorSpec) -> GeneratorSpec:
    """Makes paths absolute, for processes with other working directories."""
    placed = _with_absolute_paths(spec, "saved_model")
    return dataclasses.replace(placed, run=spec.run and _with_absolute_paths(spec.run, "name", "folder", "checkpoint"))


def _files_for_nodes(files: NetworkFiles) -> NetworkFiles:
    config = _with_absolute_paths(files.config, "classifier", "c3d_mean")
    return _with_absolute_paths(dataclasses.replace(files, config=config), "i3d")


def _with_absolute_paths(paths: T, *names: str) -> T:
    changes = {name: ray_cluster.absolute_path(getattr(paths, name)) for name in names}
    return dataclasses.replace(paths, **changes)  # type: ignore[type-var]
