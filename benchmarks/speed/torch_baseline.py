"""TGANv2 in PyTorch, written with PyTorch's own layers: the baseline of the package's training step and inference.

The same networks and the same step, by their definitions: upsampling, then a convolution; a convolution, then average
pooling; both convolutions of the ConvLSTM at every frame. Weights and inputs are exchanged by the names and in the
layout of the authors' files (`tganv2_tf.interop.chainer`), which is PyTorch's: kernels [out, in, ...], videos
[N, C, T, H, W].

One pass through D(fake) serves both updates, which saves a second one, and the graph of the reals is freed before that
of the fakes is built. Memory layouts are the fastest measured: channels last in the generator's levels, PyTorch's
default elsewhere. `torch.compile` compiles the pass of the fakes on request. It cannot compile the pass of the reals,
because it does not support the second derivatives of the penalty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from tganv2_tf.config import Config, ModelConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS

Arrays = Mapping[str, np.ndarray]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=2e-5, momentum=0.1)


class ConvLSTM(nn.Module):
    """ConvLSTM with one input map at the first frame and zeros at all others; gates in the order i, f, o, c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.recurrent = nn.Conv2d(channels, 4 * channels, 3, padding=1, bias=False)

    def forward(self, inputs: torch.Tensor, num_frames: int) -> torch.Tensor:
        """[N, C, H, W] -> [N, T, C, H, W]."""
        hidden = cell = torch.zeros_like(inputs)
        frames = []
        for _ in range(num_frames):
            i, f, o, c = (self.input(inputs) + self.recurrent(hidden)).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * c.tanh()
            hidden = o.sigmoid() * cell.tanh()
            frames.append(hidden)
            inputs = torch.zeros_like(inputs)
        return torch.stack(frames, dim=1)


class UpBlock(nn.Module):
    """BN-ReLU-upsample-conv3-BN-ReLU-conv3, plus upsample-conv1."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2)
        self.norm1 = batch_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = batch_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(self.up(F.relu(self.norm1(inputs))))
        hidden = self.conv2(F.relu(self.norm2(hidden)))
        return hidden + self.shortcut(self.up(inputs))


class Level(nn.Module):
    """The up blocks of a level, and its rendering: BN-ReLU-conv3-tanh."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(UpBlock(*pair) for pair in zip(channels, channels[1:])))
        self.norm = batch_norm(channels[-1])
        self.conv = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[N, T, C, H, W] -> [N, T, C', H', W']."""
        return self.blocks(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def render(self, features: torch.Tensor) -> torch.Tensor:
        """[N, T, C, H, W] -> float32 [N, 3, T, H, W] in [-1, 1]."""
        frames = self.conv(F.relu(self.norm(features.flatten(0, 1)))).float().tanh()
        return frames.unflatten(0, features.shape[:2]).transpose(1, 2)


class Generator(nn.Module):
    """Maps latents to videos."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        size, channels = config.pyramid.base_size, config.lstm_channels
        self.to_map = nn.Linear(config.z_dim, channels * size * size)
        self.recurrence = ConvLSTM(channels)
        widths = (channels, *config.up_channels)
        ends = range(FIRST_LEVEL_BLOCKS, len(widths))
        self.levels = nn.ModuleList(Level(widths[0 if i == 0 else end - 1 : end + 1]) for i, end in enumerate(ends))

    def unroll(self, z: torch.Tensor) -> torch.Tensor:
        """[N, z_dim] -> [N, T, C, base, base]."""
        size = self.config.pyramid.base_size
        first = self.to_map(z).unflatten(1, (self.config.lstm_channels, size, size))
        return self.recurrence(first, self.config.num_frames)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Renders all frames of the last level: [N, z_dim] -> [N, 3, T, H, W]."""
        features = self.unroll(z)
        for level in self.levels:
            features = level(features)
        return self.levels[-1].render(features)

    def pyramid(self, z: torch.Tensor, frame_offsets: Sequence[int]) -> list[torch.Tensor]:
        """Renders every level for training, subsampled; level l [N_l, 3, T_l, H_l, W_l]."""
        features = self.unroll(z)
        videos = []
        strides = zip(self.config.batch_strides, frame_offsets, self.config.frame_strides)
        for index, level in enumerate(self.levels):
            if index:
                batch_stride, offset, frame_stride = next(strides)
                features = features[::batch_stride, offset::frame_stride]
            features = level(features)
            videos.append(level.render(features))
        return videos


class SpectralNorm(nn.Module):
    """Parametrization W / (u^T W v). PyTorch's own iterates at every call, but the step calls D more than once."""

    u: torch.Tensor
    v: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))

    @torch.autocast("cpu", enabled=False)
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / torch.dot(self.u, weight.flatten(1) @ self.v)

    @torch.no_grad()
    def update(self, weight: torch.Tensor) -> None:
        """Runs one power iteration."""
        matrix = weight.flatten(1)
        self.v = F.normalize(self.u @ matrix, dim=0)
        self.u = F.normalize(matrix @ self.v, dim=0)


def spectral(layer: nn.Module) -> Any:
    return parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


class ResBlock(nn.Module):
    """Residual block with 3x3x3 convolutions.

    First: conv3-ReLU-conv3-pool, plus pool-conv1. Others: ReLU-conv3-ReLU-conv3, plus conv1, then pool.
    """

    def __init__(self, in_channels: int, channels: int, first: bool) -> None:
        super().__init__()
        self.first = first
        hidden = channels if first else in_channels
        self.conv1 = spectral(nn.Conv3d(in_channels, hidden, 3, padding=1))
        self.conv2 = spectral(nn.Conv3d(hidden, channels, 3, padding=1))
        self.shortcut = spectral(nn.Conv3d(in_channels, channels, 1))

    def pool(self, inputs: torch.Tensor) -> torch.Tensor:
        """Averages pairs along axes longer than 1, zero-padded if odd (zeros count); the first block does not pool
        time.
        """
        lengths = inputs.shape[2:]
        window = [2 if length > 1 and not (self.first and axis == 0) else 1 for axis, length in enumerate(lengths)]
        padding = [int(size == 2 and length % 2 == 1) for size, length in zip(window, lengths)]
        return F.avg_pool3d(inputs, window, window, padding)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.conv2(F.relu(self.conv1(inputs if self.first else F.relu(inputs))))
        if self.first:
            return self.pool(hidden) + self.shortcut(self.pool(inputs))
        return self.pool(hidden + self.shortcut(inputs))


class LevelDiscriminator(nn.Module):
    """Residual blocks, ReLU, sum over frames and pixels, linear."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = (3, *channels)
        self.blocks = nn.Sequential(*(ResBlock(a, b, i == 0) for i, (a, b) in enumerate(zip(widths, widths[1:]))))
        self.linear = spectral(nn.Linear(channels[-1], 1))

    def forward(self, videos: torch.Tensor) -> torch.Tensor:
        """[N, 3, T, H, W] -> logits [N]."""
        return self.linear(F.relu(self.blocks(videos)).float().sum(dim=(2, 3, 4)))[:, 0].float()


class Discriminator(nn.Module):
    """Maps pyramids to the logits of the levels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelDiscriminator(config.discriminator_channels) for _ in config.pyramid.levels)

    def forward(self, videos: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [network(level) for network, level in zip(self.levels, videos)]

    def update_singular_vectors(self) -> None:
        """Runs one power iteration for every weight."""
        for layer in self.modules():
            if isinstance(layer, (nn.Conv3d, nn.Linear)):
                normalization = layer.parametrizations.weight
                normalization[0].update(normalization.original)


class TrainingStep:
    """Training step of G, D, penalty and averaged generator.

    Args:
      config: Configuration of the run: sum score, non-saturating loss, penalty at every step, Adam.
      compile_mode: Mode of `torch.compile` for the pass of the fakes; empty = not compiled.
    Attributes:
      generator, discriminator, average: The networks.
      compiled: `fake_logits`, compiled; None without a mode.
    Raises:
      ConfigError: The baseline does not support the configuration.
    """

    compiled: Callable[[torch.Tensor, Sequence[int]], list[torch.Tensor]] | None = None

    def __init__(self, config: Config, compile_mode: str = "") -> None:
        train, model = config.train, config.model
        supported = (train.score, train.loss, train.n_dis, train.r1_every_steps) == ("sum", "non_saturating", 1, 1)
        supported &= not train.diffaugment and train.gradient_accumulation_steps == 1 and not train.gradient_clip_norm
        supported &= (
            not (model.conditional or model.self_modulation or train.penalize_fakes) and not model.grow_length_one_axes
        )
        if not supported or model.lstm_layers != 1 or not model.spectral_norm:
            raise ConfigError("the PyTorch baseline supports only unconditional recipes with the paper's objective")
        self.config = config
        self.generator, self.discriminator = Generator(model), Discriminator(model)
        self.generator.levels.to(memory_format=torch.channels_last)  # not the recurrence: few positions, large kernels
        if compile_mode:
            self.compiled = torch.compile(self.fake_logits, mode=compile_mode)
        ema = torch.optim.swa_utils.get_ema_multi_avg_fn(train.ema_decay)
        self.average = torch.optim.swa_utils.AveragedModel(self.generator, multi_avg_fn=ema, use_buffers=True)
        self.optimizers = [
            torch.optim.Adam(
                network.parameters(), rate, (train.adam_beta1, train.adam_beta2), train.adam_epsilon, fused=True
            )
            for network, rate in (
                (self.generator, train.generator_learning_rate),
                (self.discriminator, train.discriminator_learning_rate),
            )
        ]

    def scores(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the score of each clip: its sum over the levels that contain the clip."""
        total = logits[-1]
        for level, stride in zip(reversed(logits[:-1]), reversed(self.config.model.batch_strides)):
            total = level.index_add(0, torch.arange(0, len(level), stride), total)
        return total

    def fake_logits(self, z: torch.Tensor, frame_offsets: Sequence[int]) -> list[torch.Tensor]:
        """Returns the logits of generated clips."""
        return self.discriminator(self.generator.pyramid(z, frame_offsets))

    def backward(
        self, reals: Sequence[torch.Tensor], z: torch.Tensor, frame_offsets: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Adds the gradients to those of the parameters.

        Args:
          reals: Level l [N_l, 3, T_l, H_l, W_l] in [-1, 1].
          z: [N_1, z_dim] in [-1, 1].
          frame_offsets: Frame offsets of the fakes, one per subsampling layer.
        Returns:
          generator_loss, discriminator_loss and r1_penalty.
        """
        autocast = self.config.train.mixed_precision == "mixed_bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            reals = [level.detach().requires_grad_() for level in reals]
            logits = self.discriminator(reals)
            total = torch.stack([level.sum() for level in logits]).sum()
            gradients = torch.autograd.grad(total, reals, create_graph=True)
            squares = [w * gradient.square().sum() for w, gradient in zip(self.config.r1_weights, gradients)]
            penalty = torch.stack(squares).sum() / len(z)
            real_loss = F.softplus(-self.scores(logits)).mean()
            (real_loss + penalty).backward(inputs=list(self.discriminator.parameters()))
            real_loss, penalty = real_loss.detach(), penalty.detach()
            del logits, total, gradients, squares

            scores = self.scores((self.compiled or self.fake_logits)(z, frame_offsets))
            generator_loss, fake_loss = F.softplus(-scores).mean(), F.softplus(scores).mean()
            generator_loss.backward(inputs=list(self.generator.parameters()), retain_graph=True)
            fake_loss.backward(inputs=list(self.discriminator.parameters()))
        return {
            "generator_loss": generator_loss.detach(),
            "discriminator_loss": real_loss + fake_loss.detach(),
            "r1_penalty": penalty,
        }

    def __call__(
        self, reals: Sequence[torch.Tensor], z: torch.Tensor, frame_offsets: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Updates both networks; returns the losses before the update."""
        self.discriminator.update_singular_vectors()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        losses = self.backward(reals, z, frame_offsets)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update_parameters(self.generator)
        return losses


def _layers(generator: Generator, discriminator: Discriminator | None) -> Iterator[tuple[str, nn.Module]]:
    """Yields every layer with weights, by its name in the authors' files."""
    yield "fc", generator.to_map
    yield "decoder0/w_xifoc", generator.recurrence.input
    yield "decoder0/w_hifoc", generator.recurrence.recurrent
    number = 0
    for level in generator.levels:
        for block in level.blocks:
            number += 1
            yield f"block{number}/b1", block.norm1
            yield f"block{number}/c1", block.conv1
            yield f"block{number}/b2", block.norm2
            yield f"block{number}/c2", block.conv2
            yield f"block{number}/c_sc", block.shortcut
        yield f"b{number}", level.norm
        yield f"c{number}", level.conv
    for index, network in enumerate(discriminator.levels if discriminator else ()):
        for number, block in enumerate(network.blocks, start=1):
            yield f"level{index}/block{number}/c1", block.conv1
            yield f"level{index}/block{number}/c2", block.conv2
            yield f"level{index}/block{number}/c_sc", block.shortcut
        yield f"level{index}/l{len(network.blocks) + 1}", network.linear


def named_weights(generator: Generator, discriminator: Discriminator | None) -> dict[str, torch.Tensor]:
    """Returns every weight, statistic and singular vector, by name in the authors' files; vectors end in /u and /v."""
    weights = {}
    for name, layer in _layers(generator, discriminator):
        if isinstance(layer, nn.BatchNorm2d):
            weights[f"{name}/gamma"], weights[f"{name}/beta"] = layer.weight, layer.bias
            weights[f"{name}/avg_mean"], weights[f"{name}/avg_var"] = layer.running_mean, layer.running_var
            continue
        if parametrize.is_parametrized(layer):
            normalization = layer.parametrizations.weight
            weights[f"{name}/W"] = normalization.original
            weights[f"{name}/u"], weights[f"{name}/v"] = normalization[0].u, normalization[0].v
        else:
            weights[f"{name}/W"] = layer.weight
        if layer.bias is not None:
            weights[f"{name}/b"] = layer.bias
    return weights


@torch.no_grad()
def load_weights(generator: Generator, discriminator: Discriminator | None, arrays: Arrays) -> None:
    """Loads arrays from `benchmarks.speed.implementations.named_arrays` into the networks, or into the generator only.

    Raises:
      KeyError: A name is missing.
      ValueError: A name is unknown, or a shape differs.
    """
    weights = named_weights(generator, discriminator)
    unknown = sorted(arrays.keys() - weights.keys())
    if unknown:
        raise ValueError(f"unknown weights: {unknown}")
    for name, weight in weights.items():
        if weight.shape != arrays[name].shape:
            raise ValueError(f"{name}: {arrays[name].shape}, expected {tuple(weight.shape)}")
        weight.copy_(torch.from_numpy(np.array(arrays[name])))
