"""Training of the recipe of the synthetic data in PyTorch: the baseline of benchmarks/speed/race.py.

Networks and gradients are those of benchmarks/speed/torch_baseline.py. This module adds the rest of a straightforward
run: clips in memory, Adam, the averaged generator.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Callable

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.speed.torch_baseline import (
    Arrays,
    Discriminator,
    Generator,
    TrainingStep,
    load_weights,
    named_weights,
)
from tganv2_tf.config import Config, ModelConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.storage.files import atomic_file, read_npz


class UnnormalizedDiscriminator(Discriminator):
    """Discriminator without spectral norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        for layer in list(self.modules()):
            if parametrize.is_parametrized(layer):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)

    def update_singular_vectors(self) -> None:
        """Does nothing: there are no singular vectors."""


def moving_average(decay: float) -> Callable[..., None]:
    """Returns an average for AveragedModel with a warm-up, (1 + t) / (10 + t), as in the package."""

    def update(averages: list[torch.Tensor], values: list[torch.Tensor], updates: torch.Tensor | int) -> None:
        now = min(decay, (1 + int(updates)) / (10 + int(updates)))
        get_ema_multi_avg_fn(now)(averages, values, updates)

    return update


class RecipeStep(TrainingStep):
    """The baseline's step without spectral norm, with one loss per level or per clip, and an average with a warm-up.

    Args:
      config: Configuration of the run: non-saturating loss, penalty at every step, Adam at a constant rate.
      weights: Initial weights of both networks, by the authors' names.
    Attributes:
      generator, discriminator, average: The networks.
    Raises:
      ConfigError: The baseline does not support the configuration.
    """

    def __init__(self, config: Config, weights: Arrays) -> None:
        train, model = config.train, config.model
        supported = (train.loss, train.n_dis, train.r1_every_steps) == ("non_saturating", 1, 1)
        supported &= (train.learning_rate_decay, train.mixed_precision) == ("none", "float32") and train.ema_decay > 0
        supported &= not train.diffaugment and train.gradient_accumulation_steps == 1 and not train.gradient_clip_norm
        supported &= (
            not (model.conditional or model.self_modulation or train.penalize_fakes)
            and not model.grow_length_one_axes
            and model.lstm_layers == 1
        )
        supported &= not model.spectral_norm
        if not supported or config.data.normalization != "paper":
            raise ConfigError("the PyTorch baseline supports only unconditional recipes such as demo.flags")
        self.config = config
        self.generator = Generator(model)
        self.discriminator = UnnormalizedDiscriminator(model)
        load_weights(self.generator, self.discriminator, weights)
        self.generator.levels.to(memory_format=torch.channels_last)
        average = moving_average(train.ema_decay)
        self.average = AveragedModel(self.generator, multi_avg_fn=average, use_buffers=True)
        self.average.update_parameters(self.generator)  # the first call only copies: t counts the steps from here
        betas = train.adam_beta1, train.adam_beta2
        self.optimizers = [
            torch.optim.Adam(network.parameters(), rate, betas, train.adam_epsilon, fused=True)
            for network, rate in (
                (self.generator, train.generator_learning_rate),
                (self.discriminator, train.discriminator_learning_rate),
            )
        ]

    def scores(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the scores whose losses are averaged: every logit, or the sum of each clip's."""
        return torch.cat(list(logits)) if self.config.train.score == "separate" else super().scores(logits)


def batches(frames: torch.Tensor, lengths: torch.Tensor, config: Config) -> Iterator[list[torch.Tensor]]:
    """Yields pyramids of real clips endlessly: a random window of each long enough video, in a new order per epoch.

    Args:
      frames: Frames of all videos, uint8 [sum of lengths, H, H, 3].
      lengths: Lengths of the videos, int64 [V].
      config: Configuration of the run.
    Yields:
      Level l, float32 [N_l, 3, T_l, H_l, W_l] in [-1, 1].
    """
    model, size = config.model, config.train.global_batch_size
    steps = config.data.frame_step * torch.arange(model.num_frames)
    firsts, num_starts = lengths.cumsum(0) - lengths, lengths - steps[-1]
    firsts, num_starts = firsts[num_starts > 0], num_starts[num_starts > 0]
    while True:
        for videos in torch.randperm(len(firsts)).split(size):
            if len(videos) < size:
                continue
            starts = firsts[videos] + (torch.rand(size) * num_starts[videos]).long()
            numbers = starts[:, None] + steps
            mirrored = torch.rand(size) < 0.5 if config.data.flip else torch.zeros(size, dtype=torch.bool)
            levels = []
            for level in model.pyramid.levels:
                if level.number > 1:
                    batch_stride, stride = (s[level.number - 2] for s in (model.batch_strides, model.frame_strides))
                    numbers, mirrored = numbers[::batch_stride], mirrored[::batch_stride]
                    offsets = torch.randint(stride, (len(numbers), 1))
                    numbers = numbers.gather(1, offsets + torch.arange(0, numbers.shape[1], stride))
                clips = frames[numbers].permute(0, 4, 1, 2, 3).float()
                clips = torch.where(mirrored[:, None, None, None, None], clips.flip(-1), clips)
                factor = model.resolution // level.size
                levels.append(F.avg_pool3d(clips, (1, factor, factor)) / 127.5 - 1)
            yield levels


def save_average(step: RecipeStep, number: int, path: pathlib.Path) -> None:
    """Writes the averaged generator by the authors' names, and its number of steps as `step`."""
    arrays = {name: weight.detach().numpy() for name, weight in named_weights(step.average.module, None).items()}
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, step=number, **arrays)


def train(config: Config, folder: str, snapshot_minutes: Sequence[float], start: float) -> None:
    """Trains until the last moment; writes the averaged generator after the first step that ends past each moment.

    Args:
      config: Configuration of the run.
      folder: Contains `weights.npz`, the initial weights, and `videos.npz`, the `frames` and `lengths` of `batches`.
        Results are written to `baseline/after-MINUTES.npz`.
      snapshot_minutes: Moments in minutes, in ascending order.
      start: Time from which they count, on the clock of time.time().
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(config.train.seed)
    step = RecipeStep(config, read_npz(pathlib.Path(folder, "weights.npz"), "benchmarks.speed.race"))
    videos = read_npz(pathlib.Path(folder, "videos.npz"), "benchmarks.speed.race")
    frames, lengths = torch.from_numpy(videos["frames"]), torch.from_numpy(videos["lengths"])
    remaining = list(snapshot_minutes)
    for number, reals in enumerate(batches(frames, lengths, config), start=1):
        z = 2 * torch.rand(config.train.global_batch_size, config.model.z_dim) - 1
        offsets = [int(torch.randint(stride, ())) for stride in config.model.frame_strides]
        step(reals, z, offsets)
        while remaining and time.time() >= start + 60 * remaining[0]:
            save_average(step, number, pathlib.Path(folder, "baseline", f"after-{remaining.pop(0):g}.npz"))
        if not remaining:
            return
