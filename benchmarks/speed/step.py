"""Time and memory of one training step of G, D and penalty: the package against plain TensorFlow and PyTorch.

python -m benchmarks.speed.step --clips=2 --output=step.json
python -m benchmarks.speed.step --flagfile_of_run=faceforensics.flags --dtype=bfloat16 --implementations=ours,torch

`ours` is the step of tganv2_tf.train. `plain` is the same model by its definitions: --gradients=plain and the networks
of benchmarks/speed/plain_networks.py. `torch` is benchmarks/speed/torch_baseline.py (requirements-peers.txt), and
`torch_compile` and `torch_max_autotune` are the same with the pass of the fakes compiled by `torch.compile`.
`recompute` is ours with that flag. `products` is a matrix product with as many multiply-adds as ours executes, so that
the ratio to it is the fraction of the machine's speed that ours reaches. Each runs in a separate process, on random
clips in memory, in turns; the first step of each, in which graphs are traced, does not count. Before that, the losses,
the penalty and all gradients of PyTorch are compared with ours, in float32 with a sixteenth of the channels; if they
differ, nothing is timed. tests/test_gradients.py compares `plain` with ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import Any

from benchmarks.speed import contest, implementations
from benchmarks.speed.implementations import COMPILE_MODES
from benchmarks.speed.rows import Row, report
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.options import option, require

IMPLEMENTATIONS = ("ours", "plain", *COMPILE_MODES, "recompute", "products")
CHECK_DIVISOR = 16
PRECISION = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    flagfile_of_run: str = option("recipe whose networks and optimizers are used", "ucf.flags")
    implementations: str = option(f"ours and baselines of {','.join(IMPLEMENTATIONS[1:])}", "ours,plain,torch")
    resolution: int = option("pixels of the last level; 0 = the recipe's", 0)
    clips: int = option("clips per step at level 1", 2)
    dtype: str = option("compute dtype; with bfloat16, weights and norms stay in float32", "float32", tuple(PRECISION))
    frame_strides: tuple[int, ...] = option("frame stride after each level but the last", (2, 2, 2))
    batch_strides: tuple[int, ...] = option("batch stride after each level but the last", (1, 1, 1))
    width_divisor: int = option("divisor of all channels, for a quick test", 1)
    rounds: int = option("timed steps per implementation", 3)
    output: str = option("also write the figures to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        names = self.implementations.split(",")
        valid = len(set(names)) == len(names) >= 2 and "ours" in names and set(names) <= set(IMPLEMENTATIONS)
        others = ",".join(IMPLEMENTATIONS[1:])
        require(valid, "implementations", self.implementations, f"ours and at least one of {others}")
        for name in ("clips", "width_divisor", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")

    @property
    def config(self) -> Config:
        """Configuration of the run whose step is timed."""
        flags = [f"--global_batch_size={self.clips}", f"--mixed_precision={PRECISION[self.dtype]}"]
        strides = {"frame_strides": self.frame_strides, "batch_strides": self.batch_strides}
        flags += [f"--{name}={','.join(map(str, value))}" for name, value in strides.items()]
        if self.resolution:
            flags.append(f"--resolution={self.resolution}")
        options = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
        model, data, train, scores = cli.parse([f"--flagfile={self.flagfile_of_run}", *flags], *options)
        return Config(implementations.narrowed(model, self.width_divisor), data, train, scores)


def candidate(name: str, config: Config) -> tuple[Any, ...]:
    """Returns the function that makes the step of an implementation, and its arguments."""
    if name in COMPILE_MODES:
        return implementations.torch_step, config, COMPILE_MODES[name]
    if name == "products":
        return implementations.products_step, config
    if name == "recompute":
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, recompute=True))
    return implementations.tensorflow_step, name, config


def main(command: Command) -> int:
    names, config = command.implementations.split(","), command.config
    for name in COMPILE_MODES.keys() & names:
        implementations.require_torch()
        narrow = dataclasses.replace(config, model=implementations.narrowed(config.model, CHECK_DIVISOR))
        error = implementations.check_torch(narrow, COMPILE_MODES[name])
        print(f"{name} matches ours: largest relative error of a loss or gradient {error:.1e}")
    size = f"{config.model.resolution} px, {command.clips} clips, {command.dtype}"
    candidates: dict[str, contest.Candidate] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            candidates[name] = stack.enter_context(contest.Candidate(name, *candidate(name, config)))
        contest.interleaved_timing(list(candidates.values()), command.rounds)
    found: list[Row] = []
    for name in names:
        if name != "ours":
            rows = contest.compared(f"step, {size}, against {name}", candidates["ours"], candidates[name])
            found += rows[:1] if name == "products" else rows  # the memory of `products` is irrelevant
    report("benchmarks.speed.step", found, command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.step", __doc__ or ""))
