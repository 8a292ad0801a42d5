"""The systems of the paper's Table 2 on synthetic data, at equal compute (docs/table2.md).

python -m benchmarks.paper.table2 --output_dir=table2 --tflops=18
python -m benchmarks.paper.table2 --output_dir=table2 --tflops=18 --systems=tganv2,vgan --num_seeds=1

Each system is trained with its recipe for the embedded data (`flags/demo*.flags`) and several seeds until it has spent
the same number of multiply-adds (`training.cost.step_cost`). The averaged or last generator is scored. The command
writes `table2.md`, `table2.json`, `table2.png` and a strip of samples per system to the folder. Rerunning the command
resumes.

The plot needs Matplotlib: requirements-benchmarks.txt
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import numpy as np

from benchmarks.paper.runs import Plan, Runner, make_config, require_matplotlib, train_and_score
from tganv2_tf import cli
from tganv2_tf.config import EvalConfig
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import atomic_file, write_atomically

# Recipes by row, in the order of the paper's table, which is that of its inception scores on UCF101.
RECIPES = {
    "vgan": "demo_vgan.flags",
    "tgan": "demo_tgan.flags",
    "mocogan": "demo_mocogan.flags",
    "progressive_vgan": "demo_progressive_vgan.flags",
    "progressive_swl": "demo_progressive_swl.flags",
    "tganv2": "demo.flags",
}
PUBLISHED = {
    "vgan": "8.31 ± .09",
    "tgan": "11.85 ± .07",
    "mocogan": "12.42 ± .03",
    "progressive_vgan": "13.59 ± .07",
    "progressive_swl": "14.56 ± .05",
    "tganv2": "22.70 ± .19",  # row 1 of Table 1, 64 clips
}
SCORES = ("inception_score", "c3d_fid", "recall", "coverage", "effective_classes")
PLOTTED = {"inception_score": "Inception score (higher is better)", "c3d_fid": "C3D FID (lower is better)"}


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    output_dir: str = option("folder for data, runs and results", destination="folder")
    tflops: float = option("compute per run in 10^12 multiply-adds", 18.0)
    num_seeds: int = option("runs per system", 2)
    systems: str = option("rows of the table, separated by commas", ",".join(RECIPES))
    num_samples: int = option("generated videos per score", 2048)
    jobs: int = option("parallel runs, each on one thread", 2)

    def __post_init__(self) -> None:
        require(self.tflops > 0, "tflops", self.tflops, "a number above 0")
        for name in ("num_seeds", "jobs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        unknown = set(self.systems.split(",")) - set(RECIPES)
        require(not unknown, "systems", self.systems, f"some of {','.join(RECIPES)}")
        EvalConfig(num_samples=self.num_samples)  # validates the option

    @property
    def rows(self) -> list[str]:
        """The chosen systems, in the order of the table."""
        return [row for row in RECIPES if row in self.systems.split(",")]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Compute of a system's runs.

    Attributes:
      steps: Generator updates.
      multiply_adds: Mean per step.
      flags: Settings that were scaled with the number of steps.
    """

    steps: int
    multiply_adds: float
    flags: tuple[str, ...]


def cost_of(recipe: str, tflops: float) -> Cost:
    """Returns how long a recipe is trained. Settings in numbers of clips are scaled with the number of steps."""
    from tganv2_tf.training.cost import step_cost

    config = make_config(recipe, [])
    multiply_adds = step_cost(config, config.train.global_batch_size).multiply_adds
    steps = max(1, round(tflops * 1e12 / multiply_adds))
    scale = steps / config.train.train_steps
    scaled = {name: round(scale * getattr(config.model, name)) for name in config.model.SCALED_WITH_STEPS}
    return Cost(steps, multiply_adds, tuple(f"--{name}={value}" for name, value in scaled.items()))


def plan(command: Command) -> tuple[list[Plan], dict[str, Cost]]:
    """Returns the runs ordered by seed, so that an unfinished table already contains all systems, and their costs."""
    costs = {row: cost_of(RECIPES[row], command.tflops) for row in command.rows}
    plans = []
    for seed in range(command.num_seeds):
        for row, cost in costs.items():
            flags = (
                *cost.flags,
                f"--seed={seed}",
                f"--train_steps={cost.steps}",
                f"--preview_every_steps={cost.steps}",
            )
            make_config(RECIPES[row], flags)  # validates the flags before the first run
            plans.append(Plan(row, f"{row}-{cost.steps}steps-seed{seed}", RECIPES[row], flags, cost.steps))
    return plans, costs


def markdown(
    command: Command, plans: list[Plan], costs: dict[str, Cost], found: dict[str, dict[str, float]], runner: Runner
) -> str:
    """Returns the table: means over seeds, with standard deviations if there are several."""
    lines = [
        f"Each run: {command.tflops:g} x 10^12 multiply-adds; scored with {command.num_samples:,} videos. Means and "
        f"standard deviations over {command.num_seeds} seeds.",
        "",
        f"| System | Paper, IS on UCF101 | Steps | 10^9 multiply-adds per step | CPU seconds | Peak memory, GB | "
        f"{' | '.join(SCORES)} |",
        f"|---|---|---|---|---|---|{'---|' * len(SCORES)}",
    ]
    for row, cost in costs.items():
        runs = [each for each in plans if each.setting == row]
        used = [runner.usage(each.name) for each in runs]
        cells = [row, PUBLISHED[row], f"{cost.steps:,}", f"{cost.multiply_adds / 1e9:.2f}"]
        cells += [f"{np.mean([u.cpu_seconds for u in used]):.0f}", f"{max(u.peak_bytes for u in used) / 1e9:.2f}"]
        for score in SCORES:
            values = [found[each.name][score] for each in runs]
            spread = f" ± {np.std(values):.3g}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4g}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    real = " | ".join(f"{found['real'][score]:.4g}" for score in SCORES)
    return "\n".join([*lines, f"| real test clips | | | | | | {real} |", ""])


def plot(path: pathlib.Path, plans: list[Plan], found: dict[str, dict[str, float]]) -> None:
    """Plots each run as a dot, the mean per system as a bar, and the real clips as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(dict.fromkeys(each.setting for each in plans))
    figure, axes = pyplot.subplots(1, len(PLOTTED), figsize=(10, 4), layout="constrained")
    for axis, (score, title) in zip(axes, PLOTTED.items()):
        for x, row in enumerate(rows):
            values = [found[each.name][score] for each in plans if each.setting == row]
            axis.bar(x, np.mean(values), width=0.6, color="#9ecae1")
            axis.plot([x] * len(values), values, "o", color="#08519c", markersize=4)
        axis.axhline(found["real"][score], color="#31a354", linestyle="--", label="real test clips")
        axis.set_xticks(range(len(rows)), rows, rotation=20)
        axis.set_title(title)
        axis.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main(command: Command) -> int:
    require_matplotlib()
    folder = pathlib.Path(command.output_dir)
    plans, costs = plan(command)
    runner = Runner(folder, RECIPES["tganv2"])
    found = train_and_score(runner, plans, command.num_samples, SCORES, command.jobs)
    for each in plans[: len(costs)]:
        samples = (
            f"--model_dir={folder}/{each.name}",
            "--seeds=0-7",
            "--scale=2",
            f"--output={folder}/{each.setting}.png",
        )
        runner.run(f"samples-{each.setting}", "tganv2_tf.generate", *samples, result=f"{each.setting}.png")
    text = markdown(command, plans, costs, found, runner)
    write_atomically(folder / "table2.md", text)
    write_atomically(folder / "table2.json", json.dumps(found, indent=2) + "\n")
    plot(folder / "table2.png", plans, found)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.paper.table2", __doc__ or ""))
