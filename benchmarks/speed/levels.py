"""Memory of a training step against the number of levels, with one more level per doubling of the resolution.

python -m benchmarks.speed.levels
python -m benchmarks.speed.levels --output=levels.json

The paper claims that halving frames and clips from level to level makes this linear: a level has four times the pixels
of the previous one and a quarter of its frames. Measured on the graphs of the training step, without running them: the
peak memory without weights.
"""

from __future__ import annotations

import dataclasses
import sys

from benchmarks.speed.rows import Row, report
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.options import option

CHANNELS = (512, 256, 128, 64, 32, 32)  # the paper's six up blocks; each additional one has 32
BASE_RESOLUTION = 192  # with four levels


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    levels: tuple[int, ...] = option("numbers of levels; 4 levels have 192 pixels", (3, 4, 5, 6))
    num_frames: int = option("frames at level 1", 32)
    clips: int = option("clips at level 1", 32)
    output: str = option("also write the table to this JSON file", "", destination="file")


def make_config(command: Command, levels: int) -> Config:
    """Returns the configuration of a run with `levels` levels."""
    strides = (2,) * (levels - 1)
    model = ModelConfig(
        resolution=BASE_RESOLUTION * 2**levels // 2**4,
        num_frames=command.num_frames,
        frame_strides=strides,
        batch_strides=strides,
        up_channels=(*CHANNELS, *[CHANNELS[-1]] * levels)[: levels + 2],
    )
    return Config(model, DataConfig(), TrainConfig(global_batch_size=command.clips), EvalConfig())


def main(command: Command) -> int:
    from tganv2_tf.training.cost import step_cost

    rows = []
    for levels in command.levels:
        config = make_config(command, levels)
        cost = step_cost(config, command.clips)
        size = f"L={levels}, {config.model.resolution} px"
        rows.append(Row(f"activations per step, {size}", "GiB", cost.activation_bytes / 2**30))
        rows.append(Row(f"multiply-adds per step, {size}", "10^12", cost.multiply_adds / 1e12))
    report("benchmarks.speed.levels", rows, command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.levels", __doc__ or ""))
