"""Cost of `--deterministic`: the same steps with and without it, in turns.

python -m benchmarks.stress.determinism --data_dir=demo/data/train --flagfile_of_run=demo.flags

Every run is the real command in a new process. The first rows of its scalars, while the graph is traced, do not count.
Also reports whether two runs without the flag ended with the same bits.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from tqdm import tqdm

from benchmarks.stress.crash import differing
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

LOG_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    data_dir: str = option("folder of the shards")
    flagfile_of_run: str = option("recipe", "demo.flags")
    train_steps: int = option("steps of each run", 100)
    rounds: int = option("number of runs with and without the flag", 3)

    def __post_init__(self) -> None:
        valid = self.train_steps >= 3 * LOG_EVERY and self.train_steps % LOG_EVERY == 0
        require(valid, "train_steps", self.train_steps, f"a multiple of {LOG_EVERY}, at least {3 * LOG_EVERY}")
        require(self.rounds >= 2, "rounds", self.rounds, "a whole number of at least 2")


def clips_per_second(model_dir: pathlib.Path) -> list[float]:
    """Returns the clips per second of a run, without its first two rows."""
    import tensorflow as tf

    values = [
        float(tf.make_ndarray(value.tensor))
        for file in sorted(model_dir.glob("events/*tfevents*"))
        for event in tf.compat.v1.train.summary_iterator(os.fspath(file))
        for value in event.summary.value
        if value.tag == "train/clips_per_second"
    ]
    return values[2:]


def run(command: Command, model_dir: pathlib.Path, flag: str) -> float:
    """Trains; returns the median of the clips per second."""
    steps = command.train_steps
    arguments = [f"--flagfile={command.flagfile_of_run}", f"--data_dir={command.data_dir}", f"--model_dir={model_dir}"]
    arguments += [f"--train_steps={steps}", f"--log_every_steps={LOG_EVERY}", f"--preview_every_steps={steps}", flag]
    done = subprocess.run([sys.executable, "-m", "tganv2_tf.train", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"tganv2_tf.train: {done.stderr.strip().splitlines()[-1]}")
    return statistics.median(clips_per_second(model_dir))


def main(command: Command) -> int:
    speeds: dict[str, list[float]] = {"--nodeterministic": [], "--deterministic": []}
    different = {}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=2 * command.rounds, unit="run") as bar:
        for number in range(command.rounds):
            for flag, found in speeds.items():
                found.append(run(command, pathlib.Path(folder, f"{flag}{number}"), flag))
                bar.update()
        index = f"checkpoints/ckpt-{command.train_steps}.index"
        for flag in speeds:
            first, second = (pathlib.Path(folder, f"{flag}{number}", index) for number in range(2))
            different[flag] = len(differing(first, second))
    plain, deterministic = (statistics.median(found) for found in speeds.values())
    for flag, found in speeds.items():
        shown = ", ".join(f"{value:.1f}" for value in found)
        print(f"{flag}: {shown} clips per second; {different[flag]} tensors differ between two runs")
    print(f"with the flag, a step takes {plain / deterministic:.3f} times as long")
    return 1 if different["--deterministic"] else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.stress.determinism", __doc__ or ""))
