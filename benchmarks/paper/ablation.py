"""Counterpart of Table 2 on synthetic data: the effect of both kinds of subsampling at an equal compute budget.

python -m benchmarks.paper.ablation --output_dir=ablation

Trains the four rows of the paper's Table 1 (all subsampling, frames only, batch only, none) at 32x32 pixels and three
levels with several seeds, each until it has spent the same number of multiply-adds (`training.cost.step_cost`). Scores
the averaged generators and writes `ablation.md`, `ablation.json` and `ablation.png` to the folder. Everything is done
by the project's commands, which the report lists. Rerunning the command resumes an interrupted ablation.

The plot needs Matplotlib: requirements-benchmarks.txt
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pathlib
import sys

import numpy as np
from tqdm import tqdm

from benchmarks.paper.runs import Runner, make_config, require_matplotlib
from tganv2_tf import cli
from tganv2_tf.config import Config, EvalConfig
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import atomic_file, write_atomically

RECIPE = "demo.flags"
SCORES = ("inception_score", "c3d_fid")
REFERENCES = {"untrained": "an untrained generator", "real": "real clips of the test split"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table 1.

    The clips at the last level are those of the paper. Runs with batch subsampling start from a smaller batch than in
    the paper, as there is one level less here to double it.
    """

    name: str
    frame_strides: str
    batch_strides: str
    clips: int


ROWS = (
    Row("full", "2,2", "2,2", 32),
    Row("frame_only", "2,2", "1,1", 8),
    Row("batch_only", "1,1", "2,1", 8),
    Row("none", "1,1", "1,1", 4),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    output_dir: str = option("folder for data, runs and results")
    tflops: float = option("compute per run in 10^12 multiply-adds", 10.0)
    num_seeds: int = option("runs per row", 3)
    num_samples: int = option("generated videos per score", 2048)
    jobs: int = option("parallel runs, each on one thread", 2)

    def __post_init__(self) -> None:
        require(self.tflops > 0, "tflops", self.tflops, "a number above 0")
        for name in ("num_seeds", "jobs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        EvalConfig(num_samples=self.num_samples)  # validates the option


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run of the table.

    Attributes:
      name: Name of its folder.
      flags: Flags of tganv2_tf.train in addition to the recipe.
      config: Configuration of the run.
      gflops: Multiply-adds per step, in 10^9.
    """

    row: Row
    name: str
    flags: tuple[str, ...]
    config: Config
    gflops: float


def plan(command: Command) -> list[Plan]:
    """Returns the runs ordered by seed, so that an unfinished table already contains all rows."""
    from tganv2_tf.training.cost import step_cost

    costs: dict[Row, float] = {}
    plans = []
    for seed in range(command.num_seeds):
        for row in ROWS:
            flags = [f"--frame_strides={row.frame_strides}", f"--batch_strides={row.batch_strides}"]
            flags += [f"--global_batch_size={row.clips}", f"--seed={seed}"]
            if row not in costs:
                config = make_config(RECIPE, flags)
                costs[row] = step_cost(config, config.train.global_batch_size).multiply_adds / 1e9
            steps = max(1, round(1000 * command.tflops / costs[row]))
            flags += [f"--train_steps={steps}", f"--preview_every_steps={steps}"]
            name = f"{row.name}-{steps}steps-seed{seed}"
            plans.append(Plan(row, name, tuple(flags), make_config(RECIPE, flags), costs[row]))
    return plans


def markdown(command: Command, plans: list[Plan], found: dict[str, dict[str, float]], commands: list[str]) -> str:
    """Returns the report."""
    lines = [
        f"Each run: {command.tflops:g} x 10^12 multiply-adds; scored with {command.num_samples} videos of its averaged "
        f"generator against the training data. Mean and standard deviation over {command.num_seeds} seeds.",
        "",
        "| | clips at the levels | frames at the levels | 10^9 multiply-adds per step | steps | IS | C3D FID |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        runs = [each for each in plans if each.row == row]
        levels = runs[0].config.model.pyramid.levels
        cells = [
            row.name,
            " / ".join(str(level.batch_size(row.clips)) for level in levels),
            " / ".join(str(level.frames) for level in levels),
            f"{runs[0].gflops:.2f}",
            str(runs[0].config.train.train_steps),
        ]
        for score in SCORES:
            values = [found[each.name][score] for each in runs]
            cells.append(f"{np.mean(values):.2f} ± {np.std(values):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    for name, text in REFERENCES.items():
        scores = " | ".join(f"{found[name][score]:.2f}" for score in SCORES)
        lines.append(f"| {text} | | | | | {scores} |")
    return "\n".join([*lines, "", "The commands:", "", "```bash", *commands, "```", ""])


def plot(path: pathlib.Path, plans: list[Plan], found: dict[str, dict[str, float]]) -> None:
    """Plots each run as a dot, mean and standard deviation per row, and the real clips as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SCORES), figsize=(9, 3.6), layout="constrained")
    for axis, score, title in zip(axes, SCORES, ("Inception score (higher is better)", "C3D FID (lower is better)")):
        for x, row in enumerate(ROWS):
            values = [found[each.name][score] for each in plans if each.row == row]
            axis.bar(x, np.mean(values), yerr=np.std(values), capsize=6, width=0.6, color="#9ecae1")
            axis.plot([x] * len(values), values, "o", color="#08519c", markersize=4)
        axis.axhline(found["real"][score], color="#31a354", linestyle="--", label="real test clips")
        axis.set_xticks(range(len(ROWS)), [row.name for row in ROWS])
        axis.set_title(title)
        axis.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main(command: Command) -> int:
    require_matplotlib()
    folder, plans = pathlib.Path(command.output_dir), plan(command)
    runner = Runner(folder, RECIPE)
    runner.prepare()
    sources: dict[str, tuple[str, ...]] = {each.name: (f"--model_dir={folder}/{each.name}",) for each in plans}
    sources["untrained"] = (f"--model_dir={folder}/{plans[0].name}", "--untrained")
    sources["real"] = (f"--clips_dir={folder}/data/test",)
    with concurrent.futures.ThreadPoolExecutor(command.jobs) as pool:
        try:
            trained = pool.map(lambda each: runner.train(each.name, each.flags), plans)
            list(tqdm(trained, total=len(plans), desc="training", unit="run"))
            runner.train_classifier()
            scored = pool.map(lambda name: runner.evaluate(name, command.num_samples, SCORES, *sources[name]), sources)
            found = dict(zip(sources, tqdm(scored, total=len(sources), desc="scoring", unit="run")))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # running processes received Ctrl-C, too, and save their state
            raise
    text = markdown(command, plans, found, runner.commands)
    write_atomically(folder / "ablation.md", text)
    write_atomically(folder / "ablation.json", json.dumps(found, indent=2) + "\n")
    plot(folder / "ablation.png", plans, found)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.paper.ablation", __doc__ or ""))
