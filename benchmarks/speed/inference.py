"""Videos per second of an exported generator, compared with the same network in PyTorch.

python -m benchmarks.speed.inference --output=inference.json

`ours` is the signature `generate_float` of the SavedModel that tganv2_tf.export writes. The baseline is the network of
benchmarks/speed/torch_baseline.py in evaluation mode (requirements-peers.txt), eager or compiled by `torch.compile`.
Both render all frames of the last level from random latents, each in a separate process, in turns; the first call of
each does not count. Before that, the videos of both are compared, with a sixteenth of the channels; if they differ,
nothing is timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from typing import Callable

import numpy as np

from benchmarks.speed import contest, implementations
from benchmarks.speed.implementations import COMPILE_MODES
from benchmarks.speed.rows import Row, report
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import read_npz

CHECK_DIVISOR = 16


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    flagfile_of_run: str = option("recipe whose networks are used", "ucf.flags")
    batch_sizes: tuple[int, ...] = option("videos per call", (1, 4))
    baseline: str = option("PyTorch, eager or compiled", "torch", tuple(COMPILE_MODES))
    rounds: int = option("timed calls per implementation", 5)
    output: str = option("also write the figures to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        valid = bool(self.batch_sizes) and min(self.batch_sizes) >= 1
        require(valid, "batch_sizes", self.batch_sizes, "whole numbers of at least 1")
        require(self.rounds >= 1, "rounds", self.rounds, "a whole number of at least 1")

    @property
    def config(self) -> Config:
        """Configuration of the run whose generator is exported."""
        options = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
        return Config(*cli.parse([f"--flagfile={self.flagfile_of_run}"], *options))


def latents(config: Config, num: int) -> np.ndarray:
    """Returns latents, float32 [num, z_dim] in [-1, 1)."""
    return np.random.default_rng(0).uniform(-1, 1, (num, config.model.z_dim)).astype(np.float32)


def write_export(config: Config, folder: str) -> str:
    """Exports a generator with perturbed weights and statistics, and writes its arrays to `folder`/weights.npz."""
    model = implementations.tensorflow_model(config)
    implementations.perturb(model)
    from tganv2_tf.serving.signatures import export

    arrays = implementations.named_arrays(model)
    generator_arrays = {name: array for name, array in arrays.items() if not name.startswith("level")}
    np.savez(pathlib.Path(folder, "weights.npz"), **generator_arrays)
    return export(model.generator, pathlib.Path(folder, "exported"))


def exported_videos(saved_model: str, z: np.ndarray) -> Callable[[], np.ndarray]:
    """Renders with the signature `generate_float`: float32 [N, T, H, W, 3]."""
    import tensorflow as tf

    generate = tf.saved_model.load(saved_model).signatures["generate_float"]
    return lambda: generate(z=tf.constant(z))["videos"].numpy()


def torch_videos(config: Config, z: np.ndarray, weights: str, compile_mode: str = "") -> Callable[[], np.ndarray]:
    """Renders with the baseline, compiled in this mode unless it is empty: float32 [N, T, H, W, 3]."""
    import torch

    from benchmarks.speed.torch_baseline import Generator, load_weights

    generator = Generator(config.model)
    generator.levels.to(memory_format=torch.channels_last)  # as in training
    load_weights(generator, None, read_npz(weights, "benchmarks"))
    generator.eval()
    call = torch.compile(generator, mode=compile_mode) if compile_mode else generator

    @torch.inference_mode()
    def render() -> np.ndarray:
        return call(torch.from_numpy(z)).permute(0, 2, 3, 4, 1).contiguous().numpy()

    return render


def check(config: Config, compile_mode: str = "") -> float:
    """Compares the videos of both.

    Returns:
      The largest difference of a value in [-1, 1].
    Raises:
      UserError: It is above `implementations.TOLERANCE`.
    """
    config = dataclasses.replace(config, model=implementations.narrowed(config.model, CHECK_DIVISOR))
    z = latents(config, 2)
    with tempfile.TemporaryDirectory() as folder:
        saved_model = contest.in_new_process(write_export, config, folder)
        ours = contest.in_new_process(_call, exported_videos, saved_model, z)
        weights = str(pathlib.Path(folder, "weights.npz"))
        theirs = contest.in_new_process(_call, torch_videos, config, z, weights, compile_mode)
    difference = float(np.abs(ours - theirs).max())
    if not difference <= implementations.TOLERANCE:
        raise UserError(f"torch differs from ours: largest difference of a value {difference:.1e}")
    return difference


def _call(make: Callable[..., Callable[[], np.ndarray]], *arguments: object) -> np.ndarray:
    return make(*arguments)()


def main(command: Command) -> int:
    config, name = command.config, command.baseline
    mode = COMPILE_MODES[name]
    implementations.require_torch()
    print(f"{name} matches ours: largest difference of a value {check(config, mode):.1e}")
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        saved_model = contest.in_new_process(write_export, config, folder)
        weights = str(pathlib.Path(folder, "weights.npz"))
        for batch_size in command.batch_sizes:
            z = latents(config, batch_size)
            with contextlib.ExitStack() as stack:
                ours = stack.enter_context(contest.Candidate("ours", exported_videos, saved_model, z))
                baseline = stack.enter_context(contest.Candidate(name, torch_videos, config, z, weights, mode))
                contest.interleaved_timing([ours, baseline], command.rounds)
            size = f"{config.model.resolution} px, {config.model.num_frames} frames, batch of {batch_size}"
            found += contest.compared(f"inference, {size}, against {name}", ours, baseline, batch_size)
    report("benchmarks.speed.inference", found, command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.inference", __doc__ or ""))
