"""Reads and writes the authors' Chainer snapshots. `python -m tganv2_tf.import_chainer` converts them to runs.

A snapshot is an .npz of float32 arrays, one per weight, with the names of the authors' links: `fc/W`,
`decoder0/w_hifoc/W`, `block1/c1/b`, `b3/avg_mean`, `level0/block1/c_sc/W`. Convolution kernels are [out, in, ...],
linear layers [out, in] and videos [N, C, T, H, W]. Levels are counted from 0, and the links of the generator's
rendering blocks (`b3`, `c3`) by the up blocks before them. Each batch norm also has an integer `N`, a counter of
Chainer's fine-tuning mode, which the authors' code does not use: it is written as 0 and ignored when reading.

Source: the file layout of pfnet-research/tgan2; tests/test_golden.py compares the networks with its numbers.
"""

from __future__ import annotations

import math
import re
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import numpy as np

from tganv2_tf.config import ModelConfig
from tganv2_tf.errors import UserError
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS
from tganv2_tf.storage.files import Path, atomic_file, read_npz

if TYPE_CHECKING:  # imported at run time only after the checks of the flags
    from tganv2_tf.models.discriminator import Discriminator
    from tganv2_tf.models.generator import Generator

Arrays = Mapping[str, np.ndarray]


class Weight(NamedTuple):
    """A variable and its layout in the authors' file.

    Attributes:
      variable: the variable, float32.
      shape: shape of the array in the file.
      from_chainer: converts an array from the file's layout to the variable's.
      to_chainer: the inverse conversion.
    """

    variable: Any
    shape: tuple[int, ...]
    from_chainer: Callable[[np.ndarray], np.ndarray]
    to_chainer: Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _kernel_from_chainer(array: np.ndarray) -> np.ndarray:
    """Transposes [out, in, ...] to [..., in, out]."""
    return array.transpose(*range(2, array.ndim), 1, 0)


def _kernel_to_chainer(array: np.ndarray) -> np.ndarray:
    """Transposes [..., in, out] to [out, in, ...]."""
    return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


def _kernel(variable: Any) -> Weight:
    *rest, inputs, outputs = variable.shape
    return Weight(variable, (outputs, inputs, *rest), _kernel_from_chainer, _kernel_to_chainer)


def vector_weight(variable: Any) -> Weight:
    return Weight(variable, tuple(variable.shape), _same, _same)


def convolution_weights(layer: Any, name: str) -> Iterator[tuple[str, Weight]]:
    """Yields kernel and bias of a convolution or a linear layer."""
    yield f"{name}/W", _kernel(layer.kernel)
    yield f"{name}/b", vector_weight(layer.bias)


def _batch_norm(layer: Any, name: str) -> Iterator[tuple[str, Weight]]:
    yield f"{name}/gamma", vector_weight(layer.gamma)
    yield f"{name}/beta", vector_weight(layer.beta)
    yield f"{name}/avg_mean", vector_weight(layer.moving_mean)
    yield f"{name}/avg_var", vector_weight(layer.moving_variance)


def _projection_weights(generator: Generator) -> Iterator[tuple[str, Weight]]:
    """Yields the weights of the linear layer whose output is a feature map: theirs [C, H, W], ours [H, W, C]."""
    z_dim, channels = generator.config.z_dim, generator.config.lstm_channels
    size = generator.config.pyramid.base_size
    positions = size * size
    yield (
        "fc/W",
        Weight(
            generator.to_map.kernel,
            (channels * positions, z_dim),
            lambda array: array.reshape(channels, positions, z_dim).transpose(2, 1, 0).reshape(z_dim, -1),
            lambda array: array.reshape(z_dim, positions, channels).transpose(2, 1, 0).reshape(-1, z_dim),
        ),
    )
    yield (
        "fc/b",
        Weight(
            generator.to_map.bias,
            (channels * positions,),
            lambda array: array.reshape(channels, positions).T.reshape(-1),
            lambda array: array.reshape(positions, channels).T.reshape(-1),
        ),
    )


def generator_weights(generator: Generator) -> dict[str, Weight]:
    """Returns all weights and running statistics of a generator, by their names in the authors' file."""
    weights = dict(_projection_weights(generator))
    for i, lstm in enumerate(generator.recurrence):
        weights[f"decoder{i}/w_xifoc/W"] = _kernel(lstm.input_kernel)
        weights[f"decoder{i}/w_xifoc/b"] = vector_weight(lstm.bias)
        weights[f"decoder{i}/w_hifoc/W"] = _kernel(lstm.recurrent_kernel)
    number = 0
    for level in generator.generator_levels:
        for block in level.blocks:
            number += 1
            weights.update(convolution_weights(block.conv1, f"block{number}/c1"))
            weights.update(convolution_weights(block.conv2, f"block{number}/c2"))
            weights.update(convolution_weights(block.shortcut, f"block{number}/c_sc"))
            weights.update(_batch_norm(block.norm1, f"block{number}/b1"))
            weights.update(_batch_norm(block.norm2, f"block{number}/b2"))
        weights.update(_batch_norm(level.rendering.norm, f"b{number}"))
        weights.update(convolution_weights(level.rendering.conv, f"c{number}"))
    return weights


def discriminator_weights(discriminator: Discriminator) -> dict[str, Weight]:
    """Returns all weights of a discriminator, by their names in the authors' file."""
    weights: dict[str, Weight] = {}
    for level, network in enumerate(discriminator.level_discriminators):
        for i, block in enumerate(network.blocks, start=1):
            weights.update(convolution_weights(block.conv1, f"level{level}/block{i}/c1"))
            weights.update(convolution_weights(block.conv2, f"level{level}/block{i}/c2"))
            weights.update(convolution_weights(block.shortcut, f"level{level}/block{i}/c_sc"))
        weights.update(convolution_weights(network.linear, f"level{level}/l{len(network.blocks) + 1}"))
    return weights


def read_snapshot(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz by name, without unpickling.

    Raises:
      UserError: the file does not exist, is not an .npz, or is damaged.
    """
    return read_npz(path, "the authors' code")


def shape_of(arrays: Arrays, name: str, axes: int, path: Path) -> tuple[int, ...]:
    """Returns the shape of an array from which a size is inferred."""
    if name not in arrays:
        raise UserError(f"{path}: {name!r} is missing")
    shape = np.shape(arrays[name])
    if len(shape) != axes or 0 in shape:
        raise UserError(f"{path}: {name!r} has shape {list(shape)}; expected {axes} axes, none of them empty")
    return shape


def _count(arrays: Iterable[str], pattern: str) -> int:
    """Returns the largest number in the names that match the pattern plus one; 0 if there is none.

    Names are not counted, so that a name missing in the middle is reported as missing.
    """
    found = (re.match(pattern, name) for name in arrays)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _strides(strides: tuple[int, ...] | None, default: int, levels: int) -> tuple[int, ...]:
    return (default,) * (levels - 1) if strides is None else tuple(strides)


def generator_config(
    arrays: Arrays,
    path: Path,
    num_frames: int = 16,
    frame_strides: tuple[int, ...] | None = None,
    batch_strides: tuple[int, ...] | None = None,
) -> ModelConfig:
    """Infers the config of a generator from its arrays; see `load_generator`."""
    blocks = _count(arrays, r"block(\d+)/") - 1
    if blocks < FIRST_LEVEL_BLOCKS:
        missing = f"block{max(blocks, 0) + 1}/c_sc/W"
        what = "a discriminator's snapshot: " if _count(arrays, r"level(\d+)/") else ""
        raise UserError(f"{path}: {what}{missing!r} is missing")
    up_channels = tuple(shape_of(arrays, f"block{i}/c_sc/W", 4, path)[0] for i in range(1, blocks + 1))
    rows, z_dim = shape_of(arrays, "fc/W", 2, path)
    channels = shape_of(arrays, "decoder0/w_hifoc/W", 4, path)[1]
    size = math.isqrt(rows // channels)
    if size < 1 or size * size * channels != rows:
        raise UserError(f"{path}: 'fc/W' has {rows} rows, not a square map of {channels} channels")
    levels = blocks - FIRST_LEVEL_BLOCKS + 1
    return ModelConfig(
        resolution=size * 2**blocks,
        num_frames=num_frames,
        z_dim=z_dim,
        frame_strides=_strides(frame_strides, 2, levels),
        batch_strides=_strides(batch_strides, 1, levels),
        lstm_channels=channels,
        lstm_layers=_count(arrays, r"decoder(\d+)/"),
        up_channels=up_channels,
        spectral_norm=False,
        grow_length_one_axes=True,
    )


def discriminator_config(arrays: Arrays, path: Path) -> ModelConfig:
    """Infers the config of a discriminator from its arrays; see `load_discriminator`."""
    levels = _count(arrays, r"level(\d+)/")
    if not levels:
        what = "a generator's snapshot: " if "fc/W" in arrays else ""
        raise UserError(f"{path}: {what}'level0/block1/c_sc/W' is missing")
    blocks = max(_count(arrays, r"level0/block(\d+)/") - 1, 1)
    default = ModelConfig()
    up_blocks = FIRST_LEVEL_BLOCKS + levels - 1
    return ModelConfig(
        resolution=default.pyramid.base_size * 2**up_blocks,
        num_frames=max(default.num_frames, 2 ** (levels - 1)),
        frame_strides=_strides(None, 2, levels),
        batch_strides=_strides(None, 1, levels),
        up_channels=tuple(max(default.up_channels[0] >> i, default.up_channels[-1]) for i in range(up_blocks)),
        discriminator_channels=tuple(
            shape_of(arrays, f"level0/block{i}/c_sc/W", 5, path)[0] for i in range(1, blocks + 1)
        ),
        spectral_norm=False,
        grow_length_one_axes=True,
    )


def assign(weights: Mapping[str, Weight], arrays: Arrays, path: Path) -> None:
    """Checks all arrays, then assigns them to the variables.

    Raises:
      UserError: a name is missing or unknown, or an array has the wrong shape or a non-float dtype.
    """
    for name, weight in weights.items():
        if name not in arrays:
            raise UserError(f"{path}: {name!r} is missing")
        array = arrays[name]
        if array.shape != weight.shape:
            raise UserError(f"{path}: {name!r} has shape {list(array.shape)}; expected {list(weight.shape)}")
        if array.dtype.kind != "f":
            raise UserError(f"{path}: {name!r} has dtype {array.dtype}; expected float32")
    counters = {f"{name.rpartition('/')[0]}/N" for name in weights if name.endswith("/avg_mean")}
    unknown = sorted(set(arrays) - set(weights) - counters)
    if unknown:
        more = f" and {len(unknown) - 1} more names" if len(unknown) > 1 else ""
        raise UserError(f"{path}: {unknown[0]!r}{more}: not a weight of this network")
    for name, weight in weights.items():
        weight.variable.assign(weight.from_chainer(arrays[name].astype(np.float32)))


def load_generator(
    path: Path,
    num_frames: int = 16,
    frame_strides: tuple[int, ...] | None = None,
    batch_strides: tuple[int, ...] | None = None,
) -> Generator:
    """Loads a generator with the weights and running statistics of an authors' snapshot.

    The latent size, the size of the first feature map (and so the resolution), the channels, and the numbers of
    convolutional LSTMs and levels are inferred from the shapes. Settings that do not affect the weights are arguments.

    Args:
      path: the .npz.
      num_frames: frames of a training clip, and the default length of generated videos.
      frame_strides: frame strides between consecutive levels in training; None = 2 each, as the authors trained.
      batch_strides: batch strides between consecutive levels in training; None = 1 each, as the authors trained.
    Returns:
      The generator; `config` contains its architecture.
    Raises:
      UserError: the file does not exist or is not the authors', or an array is missing, unknown or of a wrong shape.
      ConfigError: the strides are invalid.
    """
    from tganv2_tf.models.generator import Generator

    arrays = read_snapshot(path)
    generator = Generator(generator_config(arrays, path, num_frames, frame_strides, batch_strides))
    assign(generator_weights(generator), arrays, path)
    return generator


def load_discriminator(path: Path) -> Discriminator:
    """Loads a discriminator, with any number of levels, with the weights of an authors' snapshot.

    Like theirs, it has no spectral norm and grows axes of length 1. The weights do not determine the video sizes; its
    `config` has those of the UCF101 recipe for the same number of levels.

    Raises:
      UserError: the file does not exist or is not the authors', or an array is missing, unknown or of a wrong shape.
    """
    from tganv2_tf.models.discriminator import Discriminator

    arrays = read_snapshot(path)
    discriminator = Discriminator(discriminator_config(arrays, path))
    assign(discriminator_weights(discriminator), arrays, path)
    return discriminator


def _save(arrays: Arrays, path: Path) -> None:
    with atomic_file(path) as temporary, open(temporary, "wb") as file:  # given a name, NumPy would append a suffix
        np.savez_compressed(file, **arrays)


def save_generator(generator: Generator, path: Path) -> None:
    """Writes a generator atomically in the authors' format.

    Raises:
      OSError: the file cannot be written.
    """
    arrays = {name: weight.to_chainer(weight.variable.numpy()) for name, weight in generator_weights(generator).items()}
    counters = [f"{name.rpartition('/')[0]}/N" for name in arrays if name.endswith("/avg_mean")]
    _save({**arrays, **dict.fromkeys(counters, np.array(0, np.int64))}, path)


def save_discriminator(discriminator: Discriminator, path: Path) -> None:
    """Writes a discriminator atomically in the authors' format.

    Theirs has no spectral norm: kernels are divided by their largest singular value, so that the logits are the same.
    Theirs always grows axes of length 1: logits differ from a network that does not, if such axes occur.

    Raises:
      OSError: the file cannot be written.
    """
    sigmas = {id(layer.kernel): layer.sigma().numpy() for layer in discriminator.weight_layers if layer.spectral_norm}
    arrays = {}
    for name, weight in discriminator_weights(discriminator).items():
        values = weight.variable.numpy()
        sigma = sigmas.get(id(weight.variable))
        arrays[name] = weight.to_chainer(values if sigma is None else values / sigma)
    _save(arrays, path)


if __name__ == "__main__":  # the command's former name
    print("chainer: renamed to tganv2_tf.import_chainer; the old name works for one more release", file=sys.stderr)
    runpy.run_module("tganv2_tf.import_chainer", run_name="__main__", alter_sys=True)
