"""Start-up time of commands: TensorFlow's import, `--help` of each, and the first training step of the demo.

python -m benchmarks.speed.startup --data_dir=demo/data/train --output=startup.json

Times are those of whole processes. Goals on two cores for `--help` and the first step: 1 s, and 15 s. The import of
TensorFlow as commands do it is compared with a plain one.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.speed.contest import run_seconds
from benchmarks.speed.rows import Row, compared, report
from tganv2_tf import cli
from tganv2_tf.__main__ import GROUPS, commands
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    data_dir: str = option("folder of the demo's shards; none = measure --help only", "")
    flagfile_of_run: str = option("recipe", "demo.flags")
    rounds: int = option("number of measurements", 3)
    output: str = option("also write the table to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "rounds", self.rounds, "a whole number of at least 1")


def seconds_to_first_step(command: Command) -> float:
    """Returns the seconds from the start of training to the end of its first step. Raises UserError without one."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        arguments = [f"--flagfile={command.flagfile_of_run}", f"--data_dir={command.data_dir}"]
        # The second step need not be awaited: the scalars of the first one are written as soon as it is done.
        arguments += [f"--model_dir={folder}", "--train_steps=100", "--log_every_steps=1"]
        start, wall = time.perf_counter(), time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "tganv2_tf.train", *arguments], stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while process.poll() is None and time.perf_counter() - start < 600:
                time.sleep(0.2)
                for file in pathlib.Path(folder, "events").glob("*tfevents*"):
                    for event in tf.compat.v1.train.summary_iterator(str(file)):
                        if any(value.tag == "train/generator_loss" for value in event.summary.value):
                            return event.wall_time - wall
        finally:
            process.kill()
            status = process.wait()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["no output"])[-1]
    raise UserError(f"tganv2_tf.train completed no step; status {status}: {last}")


def import_seconds(prepared: bool) -> float:
    """Returns the run time of a process that only imports TensorFlow and Keras."""
    hook = "from tganv2_tf.cli import tensorflow_import; tensorflow_import.install(); " if prepared else ""
    start = time.perf_counter()
    code = f"{hook}import tensorflow as tf; tf.keras.Model"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def main(command: Command) -> int:
    ours, plain = zip(*((import_seconds(True), import_seconds(False)) for _ in range(command.rounds)))
    rows = [compared("import of TensorFlow, against a plain import", "s", ours, plain, less_is_better=True)]
    for module in [name for folder in GROUPS for name in commands(folder)]:
        took = statistics.median(run_seconds(module, "--help") for _ in range(command.rounds))
        rows.append(Row(f"python -m {module} --help", "s", took))
    if command.data_dir:
        firsts = statistics.median(seconds_to_first_step(command) for _ in range(command.rounds))
        rows.append(Row(f"first step of {command.flagfile_of_run}", "s", firsts))
    report("benchmarks.speed.startup", rows, command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.startup", __doc__))
