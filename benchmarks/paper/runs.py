"""Runs of the project's commands for comparisons on synthetic data: preparation, training, classifier, scores."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, TrainConfig
from tganv2_tf.errors import UserError


def make_config(recipe: str, flags: Sequence[str]) -> Config:
    """Returns the configuration that tganv2_tf.train builds from the recipe and these flags."""
    return Config(*cli.parse([f"--flagfile={recipe}", *flags], MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig))


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
            status = subprocess.run(command, stdout=file, stderr=file, env=self.environment, check=False).returncode
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

    def train(self, name: str, flags: Sequence[str]) -> None:
        """Trains a run, or resumes it."""
        folders = (f"--data_dir={self.folder}/data/train", f"--model_dir={self.folder}/{name}")
        self.run(name, "tganv2_tf.train", f"--flagfile={self.recipe}", *flags, *folders)

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
