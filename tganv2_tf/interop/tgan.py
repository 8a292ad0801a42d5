"""Weights of TGAN's Chainer snapshots, by their names in the authors' files.

Three files belong together: `gen_iter_N.npz` (temporal generator), `vgen_iter_N.npz` (image generator) and
`vdis_iter_N.npz` (discriminator). Kernels of convolutions are [out, in, ...], those of transposed convolutions
[in, out, ...], linear layers [out, in], feature maps [C, H, W]. Source: the file layout of pfnet-research/tgan;
tests/test_tgan.py compares the networks with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tganv2_tf.errors import UserError
from tganv2_tf.interop.chainer import Weight, assign, convolution_weights, read_snapshot, shape_of, vector_weight
from tganv2_tf.storage.files import Path
from tganv2_tf.systems.tgan.config import SCALE, ModelConfig

if TYPE_CHECKING:
    from tganv2_tf.systems.tgan.networks import Discriminator, Generator


def _reversed_kernel(variable: Any) -> Weight:
    """Returns the kernel of a transposed convolution: theirs [in, out, ...], ours [..., out, in]."""
    *rest, outputs, inputs = variable.shape
    axes = (*range(2, len(rest) + 2), 1, 0)
    back = (len(rest) + 1, len(rest), *range(len(rest)))
    return Weight(variable, (inputs, outputs, *rest), lambda a: a.transpose(axes), lambda a: a.transpose(back))


def _deconvolution(layer: Any, name: str) -> Iterator[tuple[str, Weight]]:
    yield f"{name}/W", _reversed_kernel(layer.kernel)
    if layer.bias is not None:
        yield f"{name}/b", vector_weight(layer.bias)


def _map_weight(variable: Any, size: int) -> Weight:
    """Returns a weight whose last axis is a feature map: theirs [C, H, W] first, ours [H, W, C] last."""
    *inputs, units = variable.shape
    channels, positions = units // size**2, size**2

    def from_chainer(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array.reshape(channels, positions, *inputs), 0, 1).reshape(units, *inputs).T

    def to_chainer(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array.T.reshape(positions, channels, *inputs), 0, 1).reshape(units, *inputs)

    return Weight(variable, (units, *inputs), from_chainer, to_chainer)


def _norm(layer: Any, name: str, size: int = 0) -> Iterator[tuple[str, Weight]]:
    """Yields the weights of a batch norm; with `size`, over the features of a map of that height and width."""
    variables = {
        "gamma": layer.gamma,
        "beta": layer.beta,
        "avg_mean": layer.moving_mean,
        "avg_var": layer.moving_variance,
    }
    for part, variable in variables.items():
        if variable is not None:
            yield f"{name}/{part}", _map_weight(variable, size) if size else vector_weight(variable)


def temporal_generator_weights(generator: Generator) -> dict[str, Weight]:
    """Returns the weights of `gen_iter_N.npz`."""
    weights: dict[str, Weight] = {}
    for number, layer in enumerate(generator.temporal.deconvolutions):
        weights.update(_deconvolution(layer, f"dc{number}"))
    for number, layer in enumerate(generator.temporal.norms):
        weights.update(_norm(layer, f"bn{number}"))
    return weights


def image_generator_weights(generator: Generator) -> dict[str, Weight]:
    """Returns the weights of `vgen_iter_N.npz`."""
    image, weights = generator.image, {}
    for letter, name in (("s", "slow"), ("f", "fast")):
        weights[f"l0{letter}/W"] = _map_weight(image.maps[name].kernel, image.size)
        weights.update(_norm(image.map_norms[name], f"bn0{letter}", image.size))
    for number, (layer, norm) in enumerate(zip(image.deconvolutions, image.norms), start=1):
        weights.update(_deconvolution(layer, f"dc{number}"))
        weights.update(_norm(norm, f"bn{number}"))
    weights.update(_deconvolution(image.to_colours, "dc5"))
    return weights


def discriminator_weights(discriminator: Discriminator) -> dict[str, Weight]:
    """Returns the weights of `vdis_iter_N.npz`. The file also has an unused batch norm, `bn0`, of its first width."""
    weights: dict[str, Weight] = {}
    for number, layer in enumerate(discriminator.convolutions):
        weights.update(convolution_weights(layer, f"c{number}"))
    for number, norm in enumerate(discriminator.norms, start=1):
        weights.update(_norm(norm, f"bn{number}"))
    kernel = discriminator.to_score.kernel
    _, height, width, channels, _ = kernel.shape
    weights["c4/W"] = Weight(
        kernel,
        (1, channels, height, width),
        lambda array: array.transpose(2, 3, 1, 0)[np.newaxis],
        lambda array: array[0].transpose(3, 2, 0, 1),
    )
    weights["c4/b"] = vector_weight(discriminator.to_score.bias)
    return weights


def load(
    temporal_generator: Path, image_generator: Path, discriminator: Path | None = None
) -> tuple[Generator, Discriminator | None]:
    """Loads TGAN's networks with the weights and running statistics of the authors' snapshots.

    All sizes are inferred from the shapes.

    Args:
      temporal_generator, image_generator, discriminator: `gen_iter_N.npz`, `vgen_iter_N.npz`, `vdis_iter_N.npz`.
    Returns:
      The generator, whose `config` has the sizes, and the discriminator if there is a file of it.
    Raises:
      UserError: a file does not exist or is not the authors', or an array is missing, unknown or of a wrong shape.
    """
    from tganv2_tf.systems.tgan import networks

    temporal, image = read_snapshot(temporal_generator), read_snapshot(image_generator)
    opponent = read_snapshot(discriminator) if discriminator else {}
    channels = shape_of(image, "dc1/W", 4, image_generator)[0]
    rows, z_dim = shape_of(image, "l0s/W", 2, image_generator)
    size = math.isqrt(2 * rows // channels)
    if size < 1 or size * size * channels != 2 * rows:
        raise UserError(f"{image_generator}: 'l0s/W' has {rows} rows, not a square map of {channels} / 2 channels")
    config = ModelConfig(
        resolution=SCALE * size,
        z_dim=z_dim,
        fast_z_dim=shape_of(image, "l0f/W", 2, image_generator)[1],
        temporal_channels=tuple(shape_of(temporal, f"dc{i}/W", 3, temporal_generator)[1] for i in range(4)),
        image_channels=channels,
        discriminator_width=shape_of(opponent, "c0/W", 5, discriminator)[0] if discriminator else channels // 8,
    )
    generator = networks.Generator(config)
    assign(temporal_generator_weights(generator), temporal, temporal_generator)
    assign(image_generator_weights(generator), image, image_generator)
    if discriminator is None:
        return generator, None
    critic = networks.Discriminator(config)
    unused = {name for name in opponent if name.startswith("bn0/")}
    assign(discriminator_weights(critic), {n: a for n, a in opponent.items() if n not in unused}, discriminator)
    return generator, critic
