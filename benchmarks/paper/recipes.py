"""Compares settings of a recipe at equal compute on synthetic data and records the results (docs/recipes.md).

python -m benchmarks.paper.recipes --settings=settings.txt --output_dir=recipes
python -m benchmarks.paper.recipes --settings=settings.txt --output_dir=recipes_glyphs --content=glyphs --budget=0.25

Each line of the settings file is a name and flags of `tganv2_tf.train`, such as `small batch: --global_batch_size=8`.
Each setting is trained with several seeds until it has spent a share of the multiply-adds of `demo.flags`
(`training.cost.step_cost`), and its averaged generator is scored. The table in `recipes.md` has the medians and the
ranges over the seeds. Rerunning the command resumes; new lines add settings.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shlex
import sys

import numpy as np

from benchmarks.paper.runs import Plan, Runner, make_config, train_and_score
from tganv2_tf import cli
from tganv2_tf.config import EvalConfig
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import write_atomically

RECIPE = "demo.flags"
SCORES = ("inception_score", "c3d_fid", "recall", "coverage", "effective_classes")
BUDGET = 1.798e13  # multiply-adds of 3,000 steps of the first demo.flags (16 clips at each level)


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    settings: str = option("text file: one setting per line, NAME: FLAGS")
    output_dir: str = option("folder for data, runs and results", destination="folder")
    content: str = option("content of the videos", "shapes", ("shapes", "glyphs"))
    budget: float = option("compute per run; 1 = 3,000 steps of the first demo.flags, 1.8 x 10^13 multiply-adds", 1.0)
    num_seeds: int = option("runs per setting", 3)
    first_seed: int = option("seed of the first run of each setting", 0)
    num_samples: int = option("generated videos per score", 2048)
    jobs: int = option("parallel runs, each on one thread", 2)

    def __post_init__(self) -> None:
        require(self.budget > 0, "budget", self.budget, "a number above 0")
        require(self.first_seed >= 0, "first_seed", self.first_seed, "a whole number of at least 0")
        for name in ("num_seeds", "jobs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        EvalConfig(num_samples=self.num_samples)  # validates the option


def read_settings(path: str) -> dict[str, list[str]]:
    """Reads the settings file: flags by name, in the order of the file. Lines starting with `#` are comments.

    Raises:
      UserError: The file cannot be read, a line has no colon, or a name occurs twice.
    """
    settings: dict[str, list[str]] = {}
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--settings={path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, flags = line.partition(":")
        if not colon or name in settings:
            raise UserError(f"{path}:{number}: valid: NAME: FLAGS, each name once")
        settings[name.strip()] = shlex.split(flags)
    if not settings:
        raise UserError(f"--settings={path}: the file has no settings")
    return settings


def plan(command: Command) -> list[Plan]:
    """Returns the runs ordered by seed, so that an unfinished table already contains all settings."""
    from tganv2_tf.training.cost import step_cost

    steps: dict[str, int] = {}
    plans = []
    flip = [] if command.content == "shapes" else ["--noflip"]  # mirrored glyphs are not glyphs
    for seed in range(command.first_seed, command.first_seed + command.num_seeds):
        for setting, flags in read_settings(command.settings).items():
            flags = [*flip, *flags, f"--seed={seed}"]
            if setting not in steps:
                config = make_config(RECIPE, flags)
                cost = step_cost(config, config.train.global_batch_size).multiply_adds
                steps[setting] = max(1, round(command.budget * BUDGET / cost))
            flags += [f"--train_steps={steps[setting]}", f"--preview_every_steps={steps[setting]}"]
            make_config(RECIPE, flags)  # validates the flags before the first run
            slug = re.sub(r"\W+", "-", setting)
            name = f"{slug}-{steps[setting]}steps-seed{seed}"
            plans.append(Plan(setting, name, RECIPE, tuple(flags), steps[setting]))
    return plans


def markdown(command: Command, plans: list[Plan], found: dict[str, dict[str, float]]) -> str:
    """Returns the table: medians over seeds, and ranges in parentheses."""
    seeds = f"{command.num_seeds} seed{'s' * (command.num_seeds > 1)}"
    lines = [
        f"Moving {command.content}, {command.budget:g} x {BUDGET:.3g} multiply-adds per run, {command.num_samples:,} "
        f"videos per score; medians of {seeds}, ranges in parentheses.",
        "",
        f"| Setting | Flags | Steps | {' | '.join(SCORES)} |",
        f"|---|---|---|{'---|' * len(SCORES)}",
    ]
    settings = read_settings(command.settings)
    for setting in dict.fromkeys(each.setting for each in plans):
        runs = [each for each in plans if each.setting == setting]
        cells = [setting, " ".join(f"`{flag}`" for flag in settings[setting]) or "none", f"{runs[0].steps:,}"]
        for score in SCORES:
            values = [found[each.name][score] for each in runs]
            spread = f" ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
            cells.append(f"{np.median(values):.4g}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    real = " | ".join(f"{found['real'][score]:.4g}" for score in SCORES)
    return "\n".join([*lines, f"| real test clips | | | {real} |", ""])


def main(command: Command) -> int:
    folder, plans = pathlib.Path(command.output_dir), plan(command)
    runner = Runner(folder, RECIPE, command.content)
    found = train_and_score(runner, plans, command.num_samples, SCORES, command.jobs)
    text = markdown(command, plans, found)
    write_atomically(folder / "recipes.md", text)
    write_atomically(folder / "recipes.json", json.dumps(found, indent=2) + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.paper.recipes", __doc__ or ""))
