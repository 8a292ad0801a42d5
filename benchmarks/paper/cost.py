"""Cost of each level with and without subsampling: GFLOPs and the memory of the activations.

python -m benchmarks.paper.cost
python -m benchmarks.paper.cost --resolution=128 --batch_size=16 --output=cost.json

Everything is measured on the graphs of the networks; nothing is executed and no weights are allocated. A multiply-add
counts once, as in the figures published by the authors.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tganv2_tf import cli
from tganv2_tf.config import ModelConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.options import option, require
from tganv2_tf.pyramid import PyramidSpec
from tganv2_tf.storage.files import write_atomically

if TYPE_CHECKING:  # TensorFlow is imported on use, after the flags have been validated
    import tensorflow as tf

    from tganv2_tf.models.discriminator import Discriminator
    from tganv2_tf.models.generator import Generator

# Frame strides and batch strides.
SUBSAMPLING = {
    "naive": ((1, 1, 1), (1, 1, 1)),
    "frame": ((2, 2, 2), (1, 1, 1)),
    "batch": ((1, 1, 1), (2, 2, 2)),
    "both": ((2, 2, 2), (2, 2, 2)),
}
# GFLOPs of levels 1 to 4 that the authors published for their code (pfnet-research/tgan2), and the sizes they match.
PUBLISHED = {
    "generator": {
        "naive": (192.41, 35.61, 36.18, 96.37),
        "frame": (192.41, 17.80, 9.05, 12.05),
        "batch": (192.41, 17.80, 9.05, 12.05),
        "both": (192.41, 8.90, 2.26, 1.51),
    },
    "discriminator": {
        "naive": (36.09, 144.34, 577.37, 2309.48),
        "frame": (36.09, 72.17, 172.19, 478.09),
        "batch": (36.09, 72.17, 144.34, 288.69),
        "both": (36.09, 36.09, 43.05, 59.76),
    },
}
PUBLISHED_RESOLUTION = {"generator": 192, "discriminator": 256}
PUBLISHED_BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of the forward pass of one level.

    Attributes:
      gflops: 10^9 multiply-adds.
      mebibytes: Memory kept for the backward pass (`graph_cost.kept_bytes`), in 2^20 bytes.
    """

    gflops: float
    mebibytes: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.gflops - other.gflops, self.mebibytes - other.mebibytes)


@dataclasses.dataclass(frozen=True)
class Row:
    """One level of one network with one kind of subsampling.

    Attributes:
      published_gflops: The authors' figure; None if they published none.
      plain: The network as the authors run it: axes of length 1 grow, and there is no spectral norm.
      executed: The network with this package's defaults, in its optimized form.
    """

    network: str
    subsampling: str
    level: int
    clips: int
    frames: int
    size: int
    published_gflops: float | None
    plain: Cost
    executed: Cost


def _forward_cost(outputs: Sequence[tf.Tensor], variables: Sequence[tf.Variable], inputs: tf.Tensor) -> Cost:
    from tganv2_tf.training.graph_cost import kept_bytes, multiply_adds

    return Cost(multiply_adds(outputs) / 1e9, kept_bytes(outputs, variables, [inputs]) / 2**20)


def generator_costs(generator: Generator, batch_size: int, spec: PyramidSpec) -> list[Cost]:
    """Returns the training cost per level; level 1 includes the latent projection and the recurrence. Adds to the
    graph.
    """
    from tganv2_tf.training.cost import placeholders

    z, _ = placeholders(generator.config, batch_size, spec)
    videos = generator.pyramid(z, frame_strides=spec.frame_strides, batch_strides=spec.batch_strides)
    levels = range(1, len(videos) + 1)
    up_to = [Cost(0, 0), *(_forward_cost(videos[:level], generator.trainable_variables, z) for level in levels)]
    return [after - before for before, after in zip(up_to, up_to[1:])]


def discriminator_costs(discriminator: Discriminator, batch_size: int, spec: PyramidSpec) -> list[Cost]:
    """Returns the cost per level for one batch, real or fake, without the penalty. Adds to the graph."""
    from tganv2_tf.training.cost import placeholders

    _, videos = placeholders(discriminator.config, batch_size, spec)
    return [
        _forward_cost([logits], network.trainable_variables, level)
        for logits, network, level in zip(discriminator(videos), discriminator.level_discriminators, videos)
    ]


def measure(network: str, config: ModelConfig, batch_size: int, plain: bool = False) -> dict[str, list[Cost]]:
    """Returns the costs of the levels of the `generator` or the `discriminator`, for each kind of subsampling.

    Args:
      network: `generator` or `discriminator`.
      config: Architecture; its strides are ignored.
      batch_size: Clips at level 1.
      plain: Measure `benchmarks.speed.plain_networks`, which compute the layers by their definitions.
    """
    import tensorflow as tf

    from benchmarks.speed.plain_networks import PlainDiscriminator, PlainGenerator
    from tganv2_tf.models.discriminator import Discriminator
    from tganv2_tf.models.generator import Generator

    make_generator, make_discriminator = (PlainGenerator, PlainDiscriminator) if plain else (Generator, Discriminator)
    specs = {name: PyramidSpec(config.num_frames, config.resolution, *strides) for name, strides in SUBSAMPLING.items()}
    with tf.Graph().as_default():
        if network == "generator":
            generator = make_generator(config)
            return {name: generator_costs(generator, batch_size, spec) for name, spec in specs.items()}
        discriminator = make_discriminator(config)
        return {name: discriminator_costs(discriminator, batch_size, spec) for name, spec in specs.items()}


def table(network: str, resolution: int, batch_size: int) -> list[Row]:
    """Returns the rows of the `generator` or the `discriminator`, with the paper's channels.

    Args:
      network: `generator` or `discriminator`.
      resolution: Pixels at level 4.
      batch_size: Clips at level 1.
    """
    config = ModelConfig(resolution=resolution)
    authors = dataclasses.replace(config, spectral_norm=False, grow_length_one_axes=True)
    plain = measure(network, authors, batch_size, plain=True)
    executed = measure(network, config, batch_size)
    is_published = (resolution, batch_size) == (PUBLISHED_RESOLUTION[network], PUBLISHED_BATCH_SIZE)
    rows = []
    for name, strides in SUBSAMPLING.items():
        for i, level in enumerate(PyramidSpec(config.num_frames, resolution, *strides).levels):
            clips, published = level.batch_size(batch_size), PUBLISHED[network][name][i] if is_published else None
            sizes = (level.number, clips, level.frames, level.size)
            rows.append(Row(network, name, *sizes, published, plain[name][i], executed[name][i]))
    return rows


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    resolution: int = option("pixels of level 4; 0 = as published: generator 192, discriminators 256", 0)
    batch_size: int = option("clips at level 1", PUBLISHED_BATCH_SIZE)
    output: str = option("also write the table to this .md or .json file", "", destination="file")

    def __post_init__(self) -> None:
        if self.resolution:
            ModelConfig(resolution=self.resolution)  # validates the option
        require(
            self.batch_size >= 8 and self.batch_size % 8 == 0,
            "batch_size",
            self.batch_size,
            "a multiple of 8, as three subsampling layers halve it",
        )
        if self.output and Path(self.output).suffix not in (".md", ".json"):
            raise ConfigError(f"--output={self.output}: valid: a file whose name ends in .md or .json")


HEADER = """\
| subsampling | level | clips x frames x pixels | published GFLOPs | plain | executed | executed / plain | plain MiB | \
executed MiB |
|---|---|---|---|---|---|---|---|---|"""


def markdown(rows: list[Row]) -> str:
    """Returns a table of the rows of one network and the sums over levels."""
    lines = [HEADER]
    for name in SUBSAMPLING:
        group = [row for row in rows if row.subsampling == name]
        for row in group:
            sizes = f"{row.clips} x {row.frames} x {row.size}x{row.size}"
            lines.append(_line(name, str(row.level), sizes, [row]))
        lines.append(_line(name, "all", "", group))
    return "\n".join(lines)


def _line(name: str, level: str, sizes: str, rows: list[Row]) -> str:
    published = [row.published_gflops for row in rows if row.published_gflops is not None]
    plain, executed = (sum(getattr(row, form).gflops for row in rows) for form in ("plain", "executed"))
    memory = [sum(getattr(row, form).mebibytes for row in rows) for form in ("plain", "executed")]
    cells = [name, level, sizes, f"{sum(published):.2f}" if published else "", f"{plain:.2f}", f"{executed:.2f}"]
    cells += [f"{executed / plain:.2f}", *(f"{mebibytes:,.0f}" for mebibytes in memory)]
    return f"| {' | '.join(cells)} |"


def main(command: Command) -> int:
    rows, parts = [], []
    for network, published_resolution in PUBLISHED_RESOLUTION.items():
        resolution = command.resolution or published_resolution
        part = table(network, resolution, command.batch_size)
        rows += part
        parts.append(f"{network.capitalize()}, {resolution} pixels, {command.batch_size} clips\n\n{markdown(part)}\n")
    text = "\n".join(parts)
    print(text, end="")
    if command.output.endswith(".md"):
        write_atomically(command.output, text)
    elif command.output:
        write_atomically(command.output, json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.paper.cost", __doc__))
