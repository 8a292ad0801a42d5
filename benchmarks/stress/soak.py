"""A scaled-down day of training: 20,000 steps of a tiny model with the real command, observed from outside.

python -m benchmarks.stress.soak
python -m benchmarks.stress.soak --steps=2000 --output_dir=soak

Prepares the synthetic data and a small classifier, then runs `python -m tganv2_tf.train` with 400 rows of scalars,
200 previews, 200 checkpoints and 20 evaluations in total, whatever --steps is, and inspects the process and its files
once per second. The exit status is 1 if

- training fails;
- memory grows: its least-squares slope over the last two thirds of the steps would add a twentieth of it, and more
  than 20 MB, in that time;
- file handles or threads grow: there are more in the last third than in the one before;
- there are more checkpoints than --keep_checkpoints plus one that is being written;
- there are more event files than one for the run and one for its row in TensorBoard's table; or they grow in the last
  third of the steps by more than 1.1 times their growth in the one before.

A run of 20,000 steps counts as one day: 4.3 seconds per step. Linux only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Callable

import numpy as np

from benchmarks.stress.usage import Series, folder_size, memory_growth, slope, watch
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import write_atomically

STEPS_PER_DAY = 20_000
ROWS, PREVIEWS, CHECKPOINTS, EVALUATIONS = 400, 200, 200, 20  # in total
KEEP_CHECKPOINTS = 3
EVENT_FILES = 2  # one of scalars and previews, as there is one start; one of the run's row in TensorBoard's table
MODEL = (
    "--resolution=16",
    "--num_frames=4",
    "--z_dim=4",
    "--frame_strides=",
    "--batch_strides=",
    "--lstm_channels=4",
    "--up_channels=4,4,4",
    "--discriminator_channels=4",
    "--global_batch_size=4",
    "--shuffle_buffer=32",
    "--num_previews=4",
    "--num_samples=32",
    "--repetitions=1",
    "--real_passes=1",
    "--cache_dir=",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    steps: int = option("training steps; a multiple of 400", STEPS_PER_DAY)
    output_dir: str = option("folder for data, run and usage.json; none = a temporary one", "")
    flags: str = option("additional flags of tganv2_tf.train, separated by spaces", "")

    def __post_init__(self) -> None:
        require(self.steps >= ROWS and self.steps % ROWS == 0, "steps", self.steps, f"a multiple of {ROWS}")


def call(module: str, *flags: str) -> None:
    """Runs a command of the project.

    Raises:
      UserError: The command failed.
    """
    done = subprocess.run([sys.executable, "-m", module, *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{module} failed: {(done.stderr.splitlines() or ['no output'])[-1]}")


def prepare(folder: pathlib.Path) -> None:
    """Prepares shards of the synthetic data and trains a classifier."""
    if (folder / "classifier.npz").exists():
        return
    small = ("--videos_per_class=4", "--num_frames=16", "--height=16", "--width=16")
    call("data_prep.moving_shapes", f"--output_dir={folder}/videos", *small)
    source = (f"--video_dir={folder}/videos/videos", f"--split_dir={folder}/videos/ucfTrainTestlist")
    call("data_prep.ucf101", *source, "--resolution=16", "--split=all", f"--output_dir={folder}/data")
    data = (f"--data_dir={folder}/data", f"--test_data_dir={folder}/data")
    call("tganv2_tf.train_classifier", *data, "--steps=10", "--batch_size=8", f"--output={folder}/classifier.npz")


def train(command: Command, folder: pathlib.Path) -> tuple[int, Series]:
    """Trains; returns the exit status and the measurements."""
    run, every = folder / "run", command.steps
    counts = {"log": ROWS, "preview": PREVIEWS, "checkpoint": CHECKPOINTS, "eval": EVALUATIONS}
    flags = [*MODEL, f"--train_steps={every}", f"--keep_checkpoints={KEEP_CHECKPOINTS}"]
    flags += [f"--{what}_every_steps={every // count}" for what, count in counts.items()]
    flags += [f"--data_dir={folder}/data", f"--model_dir={run}", f"--classifier={folder}/classifier.npz"]
    flags += command.flags.split()

    def newest() -> float:
        """Returns the step of the newest checkpoint."""
        return max((float(step) for step in re.findall(r"ckpt-(\d+)\.index", " ".join(names(run)))), default=0)

    measured: dict[str, Callable[[], float]] = {
        "step": newest,
        "checkpoints": lambda: sum(name.endswith(".index") for name in names(run)),
        "checkpoint files": lambda: folder_size(run / "checkpoints")["count"],
        "checkpoint bytes": lambda: folder_size(run / "checkpoints")["bytes"],
        "event files": lambda: folder_size(run / "events")["count"],
        "event bytes": lambda: folder_size(run / "events")["bytes"],
    }
    # Steps of this size consist of many small operations, which threads only slow down.
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    command_line = [sys.executable, "-m", "tganv2_tf.train", *flags]
    with open(folder / "train.log", "w") as log:
        process = subprocess.Popen(command_line, stdout=log, stderr=log, env=environment)
        with ended(process), watch(process.pid, measured) as series:
            status = process.wait()
    return status, series


def names(run: pathlib.Path) -> list[str]:
    """Returns the names of the newest checkpoints' files."""
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(run / "checkpoints")
    return []


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the process on exit."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def thirds(values: list[float]) -> list[np.ndarray]:
    """Returns the first, second and last third."""
    return np.array_split(np.array(values), 3)


def violations(status: int, series: Series) -> list[str]:
    """Returns the violated guarantees."""
    broken = [f"training ended with status {status}"] if status else []
    if len(series["time"]) < 9:
        return [*broken, "too few measurements; increase --steps"]
    growth = memory_growth(series["time"], series["rss"])
    if growth:
        broken.append(f"memory grew by {growth / 1e6:.0f} MB in the last two thirds")
    for name in ("files", "threads"):
        _, before, last = thirds(series[name])
        if last.max() > before.max():
            broken.append(f"{name}: {before.max():.0f} at most in the second third, {last.max():.0f} in the last")
    most = max(series["checkpoints"])
    if most > KEEP_CHECKPOINTS + 1 or series["checkpoints"][-1] > KEEP_CHECKPOINTS:
        broken.append(f"{most:.0f} checkpoints at most, {series['checkpoints'][-1]:.0f} at the end")
    if max(series["event files"]) > EVENT_FILES:
        broken.append(f"{max(series['event files']):.0f} event files")
    at = np.interp(np.array([1, 2, 3]) / 3 * max(series["step"]), series["step"], series["event bytes"])
    if at[2] - at[1] > 1.1 * (at[1] - at[0]):
        sizes = " and ".join(f"{growth:,.0f}" for growth in np.diff(at))
        broken.append(f"event files grew by {sizes} bytes in the second and the last third of the steps")
    return broken


def table(command: Command, series: Series) -> str:
    """Returns the course of the run in rows, and the growth of its memory per day."""
    head = [
        "minutes",
        "checkpoint of step",
        "MB",
        "handles",
        "threads",
        "checkpoints",
        "checkpoint files",
        "checkpoint MB",
    ]
    lines = [f"| {' | '.join([*head, 'event files', 'event MB'])} |", "|" + "---|" * 10]
    for at in np.linspace(0, len(series["time"]) - 1, min(10, len(series["time"]))).astype(int):
        now = {name: values[at] for name, values in series.items()}
        cells = [f"{now['time'] / 60:.1f}", f"{now['step']:,.0f}", f"{now['rss'] / 1e6:,.1f}"]
        cells += [f"{now[name]:.0f}" for name in ("files", "threads", "checkpoints", "checkpoint files")]
        cells += [f"{now['checkpoint bytes'] / 1e6:.2f}", f"{now['event files']:.0f}"]
        lines.append(f"| {' | '.join([*cells, format(now['event bytes'] / 1e6, '.2f')])} |")
    minutes = (series["time"][-1] - series["time"][0]) / 60
    per_second = slope(series["time"], series["rss"])
    per_step = slope(series["step"], series["rss"])  # per step, as other load may have slowed the machine for a while
    lines += [
        "",
        f"{command.steps:,} steps in {minutes:.1f} minutes, {60_000 * minutes / command.steps:.1f} ms per step. "
        f"Memory, last two thirds: {per_step * STEPS_PER_DAY / 1e6:+.1f} MB in {STEPS_PER_DAY:,} steps, one day's "
        f"equivalent ({3600 * per_second / 1e6:+.1f} MB per hour of this run). Events: "
        f"{series['event bytes'][-1] / ROWS:,.0f} bytes per row of scalars, including half a preview.",
    ]
    return "\n".join(lines)


def main(command: Command) -> int:
    with contextlib.ExitStack() as stack:
        name = command.output_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="tganv2-soak-"))
        folder = pathlib.Path(name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "run").exists():
            raise UserError(f"--output_dir={folder} already contains a run; name a new folder")
        prepare(folder)
        status, series = train(command, folder)
        write_atomically(folder / "usage.json", json.dumps(series))
        broken = violations(status, series)
        if status:
            broken.append((folder / "train.log").read_text()[-2000:])
    if series["time"]:
        print(table(command, series), "")
    print(*broken or ["All guarantees hold."], sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.stress.soak", __doc__ or ""))
