"""Estimated training cost on 8, 64 and 512 GPUs, from counted operations and bytes and assumed rates.

python -m benchmarks.scaling.scaling_model
python -m benchmarks.scaling.scaling_model --flagfile_of_run=faceforensics.flags --output=scaling.md

Counted on the model's own graph: multiply-adds per clip, bytes of the gradients, all-reduces. Assumed: the values in
DEVICES, LINKS and the constants next to them. A step consists of computation, then the exchange of gradients, then the
update: each network's gradients are one all-reduce, which starts when the last gradient is ready, and all-reduces run
in a fixed order, so that no communication overlaps with computation. Those of the batch norms are part of the
generator's passes.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence

from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.options import option
from tganv2_tf.storage.files import write_atomically

FLOAT_BYTES = 4
GPUS_PER_NODE = 8
GPUS = (8, 64, 512)
UTILISATION_OF_MEMORY = 0.8
# Adam and average: each weight's gradient, two moments, value and average are read; all but the gradient are written.
UPDATE_PASSES = 9
LAUNCH = 20e-6  # seconds from the end of one operation to the start of an all-reduce
HOP_INSIDE = 3e-6  # seconds between two GPUs of a node
BATCH_NORM_ALL_REDUCES = 4  # mean and variance, and their gradients
OTHER_ALL_REDUCES = 3  # the scalars, the position in the data, and whether a worker was told to stop


@dataclasses.dataclass(frozen=True)
class Device:
    """A GPU and its connection to the others of its node.

    Attributes:
      name: Name and compute dtype.
      flops: Peak operations per second; a multiply-add counts as two.
      utilisation: Fraction of the peak that a step reaches.
      memory: Memory bandwidth in bytes per second.
      inside: Bytes per second that it sends to, and simultaneously receives from, others of its node.
    """

    name: str
    flops: float
    utilisation: float
    memory: float
    inside: float


@dataclasses.dataclass(frozen=True)
class Link:
    """The connection between nodes.

    Attributes:
      name: Name of the network.
      bandwidth: Bytes per second that a node sends, and simultaneously receives, after protocol overhead.
      hop: Seconds from one node to another.
    """

    name: str
    bandwidth: float
    hop: float


# Peaks are the manufacturers', utilisation is from docs/performance.md. NVLink reaches about 80 % of 150 and 450 GB/s.
DEVICES = (
    Device("V100, float32, PCIe", 15.7e12, 1 / 2, 0.9e12, 10e9),
    Device("V100, float16, NVLink", 125e12, 1 / 4, 0.9e12, 120e9),
    Device("H100, bfloat16, NVLink", 989e12, 1 / 5, 3.35e12, 360e9),
)
# Assumed: TCP over Ethernet reaches 80 % of its rate with 30 us, InfiniBand 90 % with 5 us.
LINKS = (
    Link("25 Gb/s Ethernet", 0.8 * 25e9 / 8, 30e-6),
    Link("100 Gb/s Ethernet", 0.8 * 100e9 / 8, 30e-6),
    Link("200 Gb/s InfiniBand", 0.9 * 200e9 / 8, 5e-6),
    Link("400 Gb/s InfiniBand", 0.9 * 400e9 / 8, 5e-6),
    Link("8 x 400 Gb/s InfiniBand", 8 * 0.9 * 400e9 / 8, 5e-6),
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A step, independent of the hardware.

    Attributes:
      multiply_adds: Multiply-adds of one clip, forward and backward.
      trained_bytes: Bytes of the gradients of both networks, float32.
      batch_norm_channels: Channels of each synchronised batch norm.
      min_clips: Minimum clips per GPU: the product of the batch strides.
    """

    multiply_adds: float
    trained_bytes: int
    batch_norm_channels: tuple[int, ...]
    min_clips: int

    @classmethod
    def of(cls, config: Config) -> Workload:
        """Counts operations on the graph of the smallest batch; all but the bytes are proportional to the batch."""
        import tensorflow as tf

        from tganv2_tf.models.generator import Generator
        from tganv2_tf.training.cost import step_cost

        clips = config.model.pyramid.levels[-1].clip_stride
        cost = step_cost(config, clips)
        with tf.Graph().as_default():
            channels = tuple(norm.gamma.shape[-1] for norm in Generator(config.model).batch_norms)
        return cls(cost.multiply_adds / clips, cost.trained_bytes, channels, clips)

    @property
    def small_all_reduces(self) -> int:
        """Number of all-reduces per step, excluding those of the gradients."""
        return BATCH_NORM_ALL_REDUCES * len(self.batch_norm_channels) + OTHER_ALL_REDUCES


def ring_bytes(size: float, workers: int) -> float:
    """Returns the bytes that each worker sends, and receives, in a ring all-reduce of `size` bytes."""
    return 2 * (workers - 1) / workers * size


def all_reduce_seconds(size: float, gpus: int, device: Device, link: Link) -> float:
    """Returns the duration of an all-reduce: the bandwidth of a ring and the latency of a tree, as in NCCL.

    A ring enters and leaves each node once, so its slowest link carries the traffic of every GPU.
    """
    if gpus == 1:
        return 0.0
    nodes = math.ceil(gpus / GPUS_PER_NODE)
    bandwidth = device.inside if nodes == 1 else min(device.inside, link.bandwidth)
    inside, between = math.ceil(math.log2(min(gpus, GPUS_PER_NODE))), math.ceil(math.log2(nodes))
    latency = LAUNCH + 2 * (inside * HOP_INSIDE + between * link.hop)
    return ring_bytes(size, gpus) / bandwidth + latency


@dataclasses.dataclass(frozen=True)
class Step:
    """Duration of a step in seconds.

    Attributes:
      computation: Forward and backward passes.
      update: Adam and the average, which each GPU computes for all weights.
      gradients: All-reduces of the gradients.
      small: All other all-reduces.
    """

    computation: float
    update: float
    gradients: float
    small: float

    @property
    def seconds(self) -> float:
        return self.computation + self.update + self.gradients + self.small

    @property
    def efficiency(self) -> float:
        """Ratio of the time that a single GPU would take for its clips to the duration of the step."""
        return (self.computation + self.update) / self.seconds

    @property
    def hidden_efficiency(self) -> float:
        """The same if the exchange of gradients overlapped with computation: an upper bound."""
        alone = self.computation + self.update
        return alone / (max(self.computation, self.gradients) + self.update + self.small)


def predict(work: Workload, clips: float, gpus: int, device: Device, link: Link) -> Step:
    """Predicts a step with `clips` clips per GPU."""
    norms = sum(
        BATCH_NORM_ALL_REDUCES * all_reduce_seconds(FLOAT_BYTES * channels, gpus, device, link)
        for channels in work.batch_norm_channels
    )
    others = OTHER_ALL_REDUCES * all_reduce_seconds(0, gpus, device, link)
    # One all-reduce per network: the bytes of both, and a second latency.
    gradients = sum(all_reduce_seconds(size, gpus, device, link) for size in (work.trained_bytes, 0))
    return Step(
        computation=2 * work.multiply_adds * clips / (device.utilisation * device.flops),
        update=UPDATE_PASSES * work.trained_bytes / (UTILISATION_OF_MEMORY * device.memory),
        gradients=gradients,
        small=norms + others,
    )


def hiding_clips(work: Workload, gpus: int, device: Device, link: Link) -> float:
    """Returns the clips per GPU for which computation takes as long as the exchange of gradients."""
    step = predict(work, 1, gpus, device, link)
    return step.gradients / step.computation


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    flagfile_of_run: str = option("recipe", "ucf.flags")
    clips: tuple[int, ...] = option("clips per GPU, for weak scaling", (8, 64))
    global_batch_sizes: tuple[int, ...] = option("total clips per step, for strong scaling", (256, 2048, 4096))
    output: str = option("also write the tables to this .md file", "", destination="file")

    def __post_init__(self) -> None:
        if self.output and not self.output.endswith(".md"):
            raise ConfigError(f"--output={self.output}: valid: a file whose name ends in .md")
        for name in ("clips", "global_batch_sizes"):
            value = getattr(self, name)
            if not value or min(value) < 1:
                raise ConfigError(f"--{name}={','.join(map(str, value))}: valid: whole numbers of at least 1")


def _pairs() -> Iterator[tuple[Device, Link]]:
    """Yields each GPU with the links up to the first that is no slower than the connections inside its node."""
    for device in DEVICES:
        for link in LINKS:
            yield device, link
            if link.bandwidth >= device.inside:
                break


def _table(columns: Sequence[str], cell: Callable[[Device, Link, int], str]) -> str:
    """Returns a table with one line per GPU and link; `cell` receives both and the column number."""
    head = ["GPU", "between nodes", *columns]
    lines = [
        [device.name, link.name, *(cell(device, link, column) for column in range(len(columns)))]
        for device, link in _pairs()
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def weak(work: Workload, clips: int) -> str:
    """Returns the table of steps with `clips` clips per GPU."""

    def cell(device: Device, link: Link, column: int) -> str:
        step = predict(work, clips, GPUS[column], device, link)
        rate = clips * GPUS[column] / step.seconds
        return f"{1e3 * step.seconds:,.0f} ms, {rate:,.0f}, {step.efficiency:.0%} ({step.hidden_efficiency:.0%})"

    return _table([f"{gpus} GPUs" for gpus in GPUS], cell)


def strong(work: Workload, batches: Sequence[int]) -> str:
    """Returns the table of steps with fixed total batches, up to the number of GPUs that can share them."""
    columns = [
        (batch, gpus)
        for batch in batches
        for gpus in sorted({batch // work.min_clips, *GPUS})
        if gpus <= batch // work.min_clips
    ]

    def cell(device: Device, link: Link, column: int) -> str:
        batch, gpus = columns[column]
        step = predict(work, batch / gpus, gpus, device, link)
        return f"{1e3 * step.seconds:,.0f} ms, {step.efficiency:.0%}"

    return _table([f"{batch} on {gpus}" for batch, gpus in columns], cell)


def hiding(work: Workload) -> str:
    """Returns the table of clips per GPU that could hide the exchange of gradients."""

    def cell(device: Device, link: Link, column: int) -> str:
        return f"{hiding_clips(work, GPUS[column], device, link):,.1f}"

    return _table([f"{gpus} GPUs" for gpus in GPUS], cell)


def main(command: Command) -> int:
    options = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
    work = Workload.of(Config(*cli.parse([f"--flagfile={command.flagfile_of_run}"], *options)))
    parts = [
        f"{command.flagfile_of_run}: {work.multiply_adds / 1e9:.1f} x 10^9 multiply-adds per clip, "
        f"{work.trained_bytes / 1e6:.0f} MB of gradients, {work.small_all_reduces} other all-reduces per step, "
        f"at least {work.min_clips} clips per GPU",
    ]
    for clips in command.clips:
        what = "time per step, clips per second, efficiency (if computation hid the exchange of gradients)"
        parts += [f"{clips} clips per GPU: {what}", weak(work, clips)]
    parts += ["Total clips on a number of GPUs: time per step, efficiency", strong(work, command.global_batch_sizes)]
    parts += ["Clips per GPU whose computation takes as long as the exchange of gradients", hiding(work)]
    text = "\n\n".join(parts) + "\n"
    print(text, end="")
    if command.output:
        write_atomically(command.output, text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.scaling.scaling_model", __doc__ or ""))
