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
from tganv2_tf.errors import ConfigError
from tganv2_tf.evaluation import samples
from tganv2_tf.evaluation.networks import Answers, NetworkFiles, describe, enough_memory, load_networks
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.recalibration import recalibrate
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run, files_of
from tganv2_tf.sampling.sampler import load_sampler

T = TypeVar("T")
BYTES_AT_ONCE = 2**30  # of videos in transit to nodes


@dataclasses.dataclass(frozen=True)
class Source:
    """Specifies a generator and its videos.

    Attributes:
      run: the run, with its checkpoint.
      untrained: use the run's generator with its initial weights.
      saved_model: folder of one version of a SavedModel, instead of `run`.
      seed: seed of the latents.
      truncation: psi; latents are drawn from U(-psi, psi).
      recalibration_batches: batches used to recompute the batch-norm statistics of a run's generator; 0 = keep them.
    """

    run: Run | None = None
    untrained: bool = False
    saved_model: str = ""
    seed: int = 0
    truncation: float = 1.0
    recalibration_batches: int = 0


class Scored(NamedTuple):
    """A loaded generator to score.

    Attributes:
      sample: float32 [n, z_dim], and int32 labels [n] or None -> float32 [n, 16, H, W, 3].
      z_dim: dimensions of a latent.
      class_names: empty for an unconditional generator.
      about: its origin, for the report.
      run: the config of its run; None for a SavedModel.
    """

    sample: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]
    z_dim: int
    class_names: tuple[str, ...]
    about: dict[str, Any]
    run: Config | None

    def batch(self, source: Source, number: int, size: int) -> tf.Tensor:
        """Renders batch `number` of the source, float32 [size, 16, H, W, 3]; it is the same on every machine."""
        return samples.batch_of_generator(
            self.sample, self.z_dim, source.seed, number, size, len(self.class_names), source.truncation
        )


@functools.lru_cache(maxsize=1)  # a worker process calls this once per batch
def load_scored(source: Source) -> Scored:
    """Loads the generator.

    Raises:
      ConfigError: `untrained` is set, but the run was initialized from another run.
      UserError: there is no generator.
    """
    about: dict[str, Any] = {"truncation": source.truncation}
    if source.saved_model:
        sampler = load_sampler(saved_model=source.saved_model)
        about |= {"saved_model": source.saved_model, "checksum": folder_checksum(source.saved_model)}
        return Scored(
            lambda z, labels: sampler.float_videos(z, samples.NUM_FRAMES, labels=labels),
            sampler.z_dim,
            sampler.class_names,
            about,
            None,
        )
    run = source.run
    assert run is not None
    if source.untrained:
        config, step = run.config, 0
        if config.train.init_from:
            raise ConfigError(f"--untrained: the run was initialized from {config.train.init_from}; score that run")
        tf.keras.utils.set_random_seed(config.train.seed)  # as at the start of training
        generator = Generator(config.model)
    else:
        generator, step = load_generator(run)
        config, about["checkpoint"] = run.config, checksums(files_of(run.checkpoint or ""))
    if source.recalibration_batches:
        recalibrate(generator, source.recalibration_batches, config.train.seed)
    sample = tf.function(
        lambda z, labels: generator(z, num_frames=samples.NUM_FRAMES, labels=labels), reduce_retracing=True
    )
    about |= {"step": step, "config": dataclasses.asdict(config)}
    return Scored(sample, config.model.z_dim, run.class_names, about, config)


def answers_from_nodes(source: Source, files: NetworkFiles, options: ray_cluster.RunnerOptions) -> Iterator[Answers]:
    """Renders videos and computes their network outputs on the nodes of a cluster. Yields batches in order.

    Args:
      source: a generator that all nodes can read.
      files: networks that all nodes can read; its config also sets `eval_batch_size`, `num_samples` and `repetitions`.
      options: options of the cluster.
    """
    config = files.config
    count = math.ceil(config.num_samples * config.repetitions / config.eval_batch_size)
    function = functools.partial(_answer_on_node, source=_for_nodes(source), files=_files_for_nodes(files))
    return (answers for _, answers in ray_cluster.run_tasks(function, range(count), options, ordered=True))


def described_by_nodes(
    batches: samples.Batches, kinds: Collection[str], files: NetworkFiles, options: ray_cluster.RunnerOptions
) -> Iterator[Answers]:
    """Computes network outputs of local videos on the nodes of a cluster. Yields batches in order.

    Args:
      batches: float32 [n, 16, H, W, 3] in [-1, 1].
      kinds: names of the networks.
      files: networks that all nodes can read.
      options: options of the cluster.
    """
    function = functools.partial(_describe_on_node, kinds=tuple(kinds), files=_files_for_nodes(files))
    arrays = (batch.numpy() for batch in batches)
    for first in arrays:  # no later batch is larger
        at_once, all_of_them = max(2, BYTES_AT_ONCE // first.nbytes), itertools.chain([first], arrays)
        for _, answers in ray_cluster.run_tasks(function, all_of_them, options, at_once=at_once, ordered=True):
            yield answers


def _answer_on_node(number: int, source: Source, files: NetworkFiles) -> Answers:
    with enough_memory():
        videos = load_scored(source).batch(source, number, files.config.eval_batch_size)
        return describe(videos, files.kinds, load_networks(files))


def _describe_on_node(videos: np.ndarray, kinds: Collection[str], files: NetworkFiles) -> Answers:
    with enough_memory():
        return describe(tf.constant(videos), kinds, load_networks(files))


def _for_nodes(source: Source) -> Source:
    """Makes paths absolute, for processes with other working directories."""
    placed = _placed(source, "saved_model")
    return dataclasses.replace(placed, run=source.run and _placed(source.run, "name", "folder", "checkpoint"))


def _files_for_nodes(files: NetworkFiles) -> NetworkFiles:
    config = _placed(files.config, "classifier", "c3d_mean")
    return _placed(dataclasses.replace(files, config=config), "i3d")


def _placed(paths: T, *names: str) -> T:
    changes = {name: ray_cluster.placed(getattr(paths, name)) for name in names}
    return dataclasses.replace(paths, **changes)  # type: ignore[type-var]
