"""Runs of the project's commands for comparisons on synthetic data: preparation, training, classifier, scores."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, TrainConfig
from tganv2_tf.errors import UserError
from tganv2_tf.runtime import lanes
from tganv2_tf.storage.files import write_atomically


def make_config(recipe: str, flags: Sequence[str]) -> Config:
    """Returns the configuration that tganv2_tf.train builds from the recipe and these flags."""
    return Config(*cli.parse([f"--flagfile={recipe}", *flags], MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig))


def require_matplotlib() -> None:
    """Raises UserError if there is no Matplotlib, before hours of training instead of after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(f"the plot needs Matplotlib: {lanes.install_command('benchmarks')}") from error


class Usage(NamedTuple):
    """Resources of one or several processes.

    Attributes:
      cpu_seconds: Time of all threads, in user and kernel mode.
      peak_bytes: Largest resident memory.
    """

    cpu_seconds: float
    peak_bytes: int


class Runner:
    """Runs the project's commands, with one thread each, and records them.

    Attributes:
      folder: Folder of all results; the commands write their output to `logs/` in it.
      recipe: Flag file of all runs.
      content: Content of the synthetic videos, as in `data_prep.moving_shapes`.
      commands: Commands that were run or found to be done.
    """

    def __init__(self, folder: pathlib.Path, recipe: str, content: str = "shapes") -> None:
        self.folder, self.recipe, self.content = folder, recipe, content
        self.commands: list[str] = []
        # A step of this size consists of many small operations: parallel runs finish sooner than parallel operations.
        self.environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

    def run(self, name: str, module: str, *flags: str, result: str = "") -> None:
        """Runs `python -m module flags`, unless the file `result` already exists in the folder.

        Raises:
          UserError: The command failed.
        """
        self.commands.append(shlex.join(["python", "-m", module, *flags]))
        if result and (self.folder / result).is_file():
            return
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            command = [sys.executable, "-m", module, *flags]
            process = subprocess.Popen(command, stdout=file, stderr=file, env=self.environment)
            _, ended, used = os.wait4(process.pid, 0)  # as `process.wait`, with the resources used
            status = process.returncode = os.waitstatus_to_exitcode(ended)
        self._record_usage(name, Usage(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024))
        if status:
            last = (log.read_text().splitlines() or ["no output"])[-1]
            raise UserError(f"{name}: {module} ended with status {status}: {last}; see {log}")

    def prepare(self) -> None:
        """Prepares shards of the synthetic data."""
        shapes = f"{self.folder}/moving_{self.content}"
        content = () if self.content == "shapes" else (f"--content={self.content}",)
        self.run("shapes", "data_prep.moving_shapes", *content, f"--output_dir={shapes}")
        for split in ("train", "test"):
            flags = (f"--video_dir={shapes}/videos", f"--split_dir={shapes}/ucfTrainTestlist", f"--split={split}")
            self.run(split, "data_prep.ucf101", *flags, "--resolution=32", f"--output_dir={self.folder}/data/{split}")

    def _record_usage(self, name: str, used: Usage) -> None:
        """Adds to the resources used under this name: a resumed run consists of several processes."""
        before, path = self.usage(name), self._usage_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        total = Usage(before.cpu_seconds + used.cpu_seconds, max(before.peak_bytes, used.peak_bytes))
        write_atomically(path, json.dumps(total._asdict()) + "\n")

    def usage(self, name: str) -> Usage:
        """Returns the resources used under this name so far."""
        path = self._usage_file(name)
        return Usage(**json.loads(path.read_text())) if path.is_file() else Usage(0.0, 0)

    def _usage_file(self, name: str) -> pathlib.Path:
        return self.folder / "usage" / f"{name}.json"

    def train(self, name: str, flags: Sequence[str], recipe: str = "") -> None:
        """Trains a run, or resumes it; by another recipe if one is given."""
        folders = (f"--data_dir={self.folder}/data/train", f"--model_dir={self.folder}/{name}")
        self.run(name, "tganv2_tf.train", f"--flagfile={recipe or self.recipe}", *flags, *folders)

    def train_classifier(self) -> None:
        """Trains the C3D used for scoring on the same data."""
        data = (f"--data_dir={self.folder}/data/train", f"--test_data_dir={self.folder}/data/test")
        output = f"--output={self.folder}/classifier.npz"
        self.run("classifier", "tganv2_tf.train_classifier", *data, output, result="classifier.npz")

    def evaluate(self, name: str, num_samples: int, scores: Sequence[str], *source: str) -> dict[str, float]:
        """Returns the scores of one repetition."""
        result = f"scores/{name}-{num_samples}videos.json"
        against = (f"--data_dir={self.folder}/data/train", f"--classifier={self.folder}/classifier.npz")
        counts = (f"--num_samples={num_samples}", "--repetitions=1", f"--scores={','.join(scores)}")
        flags = (*source, *against, *counts, f"--output={self.folder}/{result}")
        self.run(f"scores-{name}", "tganv2_tf.evaluate", *flags, result=result)
        found = json.loads((self.folder / result).read_text())["scores"]
        return {score: found[score]["mean"] for score in scores}


class Plan(NamedTuple):
    """A run of a comparison.

    Attributes:
      setting: Name of what is compared.
      name: Name of the run's folder.
      recipe: Its recipe.
      flags: Further flags of tganv2_tf.train.
      steps: Generator updates.
    """

    setting: str
    name: str
    recipe: str
    flags: tuple[str, ...]
    steps: int


def train_and_score(
    runner: Runner, plans: Iterable[Plan], num_samples: int, scores: Sequence[str], jobs: int
) -> dict[str, dict[str, float]]:
    """Trains and scores all runs, and scores real test clips.

    Args:
      runner: Runs the commands, or finds them done.
      plans: The runs.
      num_samples: Generated videos per score.
      scores: Names of the scores.
      jobs: Runs that are trained in parallel.
    Returns:
      The scores by name of the run, and those of `real`.
    """
    plans = list(plans)
    runner.prepare()
    runner.train_classifier()

    def run(each: Plan) -> tuple[str, dict[str, float]]:
        runner.train(each.name, each.flags, each.recipe)
        source = f"--model_dir={runner.folder}/{each.name}"
        return each.name, runner.evaluate(each.name, num_samples, scores, source)

    found = {"real": runner.evaluate("real", num_samples, scores, f"--clips_dir={runner.folder}/data/test")}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            found |= dict(tqdm(pool.map(run, plans), total=len(plans), desc="runs", unit="run"))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # running processes received Ctrl-C, too, and save their state
            raise
    return found
