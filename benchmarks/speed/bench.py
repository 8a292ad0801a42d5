"""Runs all benchmarks of speed and memory one after the other and writes their report.

python -m benchmarks.speed.bench --output_dir=bench
python -m benchmarks.speed.bench --output_dir=bench --parts=step_192_2,inference

The full benchmark takes hours; nothing else should run in that time. Every part is a separate command, which the report
names. Parts with results in the folder are not repeated; the report contains all parts in the folder. `make bench` runs
this command.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from tqdm import tqdm

from benchmarks.speed.rows import Row, markdown
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import atomic_file, write_atomically

FACES, BFLOAT16 = "--flagfile_of_run=faceforensics.flags", "--dtype=bfloat16"
# Parts with `_avx2` in their names emulate a processor without AVX-512, for oneDNN (in TensorFlow and PyTorch) and
# PyTorch's own kernels, but not for OpenCV and NumPy.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
# Both baselines of a step together with ours do not fit into 24 GB.
PARTS = {
    "step_192_2": ["step", "--implementations=ours,torch"],
    "step_192_2_avx2": ["step", "--implementations=ours,torch"],
    "step_192_2_plain": ["step", "--implementations=ours,plain"],
    "step_192_2_products": ["step", "--implementations=ours,products"],
    "step_192_2_bfloat16_products": ["step", "--implementations=ours,products", BFLOAT16],
    "step_192_8_recompute": ["step", "--implementations=ours,recompute", "--clips=8", "--rounds=2"],
    "step_192_4": ["step", "--implementations=ours,torch", "--clips=4", "--rounds=2"],
    "step_192_4_plain": ["step", "--implementations=ours,plain", "--clips=4", "--rounds=2"],
    "step_256_2": ["step", "--implementations=ours,torch", FACES, "--rounds=2"],
    "step_256_2_plain": ["step", "--implementations=ours,plain", FACES, "--rounds=2"],
    "step_256_4": ["step", "--implementations=ours,torch", FACES, "--clips=4", "--rounds=2"],
    "step_192_2_bfloat16": ["step", "--implementations=ours,torch", BFLOAT16],
    "step_192_4_bfloat16": ["step", "--implementations=ours,torch", BFLOAT16, "--clips=4", "--rounds=2"],
    "step_256_2_bfloat16": ["step", "--implementations=ours,torch", BFLOAT16, FACES, "--rounds=2"],
    "step_256_2_products": ["step", "--implementations=ours,products", FACES],
    "step_256_4_bfloat16": ["step", "--implementations=ours,torch", BFLOAT16, FACES, "--clips=4", "--rounds=2"],
    "levels": ["levels"],
    "inference": ["inference"],
    "inference_avx2": ["inference"],
    "evaluation": ["evaluation"],
    "evaluation_avx2": ["evaluation"],
    "input_pipeline": ["input_pipeline"],
    "preparation": ["preparation"],
    "preparation_avx2": ["preparation"],
    "startup": ["startup"],
    "race": ["race"],
}


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    output_dir: str = option("folder for the results, one JSON file per part")
    parts: str = option("parts to measure; none = all: " + ",".join(PARTS), "")
    data_dir: str = option("shards of the demo, to time its first step; none = not measured", "")
    classifier: str = option("C3D of the demo, for race; requires --data_dir; none = skip race", "")
    report: str = option(
        "Markdown report; the plot is written next to it as .png", "benchmarks/speed/results.md", destination="file"
    )

    def __post_init__(self) -> None:
        require(set(self.names) <= set(PARTS), "parts", self.parts, f"some of {','.join(PARTS)}")
        require(not self.classifier or bool(self.data_dir), "classifier", self.classifier, "with --data_dir only")
        race_is_possible = "race" not in self.names or bool(self.classifier)
        require(race_is_possible, "parts", self.parts, "race with --data_dir and --classifier only")

    @property
    def names(self) -> list[str]:
        """Parts to measure, in order."""
        if self.parts:
            return self.parts.split(",")
        return [name for name in PARTS if name != "race" or self.classifier]


def restriction(name: str) -> dict[str, str]:
    """Returns the environment variables that a part sets."""
    return AVX2 if name.endswith("_avx2") else {}


def measure(name: str, command: Command, path: pathlib.Path) -> None:
    """Runs the command of a part, which writes its results to the file.

    Raises:
      UserError: The command failed; its output was printed to stderr.
    """
    program, *flags = PARTS[name]
    if program in ("startup", "race") and command.data_dir:
        flags.append(f"--data_dir={command.data_dir}")
    if program == "race":
        flags.append(f"--classifier={command.classifier}")
    arguments = [sys.executable, "-m", f"benchmarks.speed.{program}", *flags, f"--output={path}"]
    status = subprocess.run(arguments, env=os.environ | restriction(name), stdout=subprocess.DEVNULL).returncode
    if status or not path.exists():
        raise UserError(f"{name}: `{' '.join(arguments[1:])}` ended with status {status}")


def document(found: dict[str, dict[str, Any]]) -> str:
    """Returns the report on the contents of the parts' files."""
    lines = [
        "# Measurements",
        "",
        "Written by `make bench`; each table names its command. Ratios are medians over alternating rounds on one",
        "machine, with their range; above 1 ours is better. Absolute times hold for that machine and day only.",
    ]
    for name, part in found.items():
        rows = [Row(**row) for row in part["rows"]]
        command = " ".join([*(f"{key}={value}" for key, value in restriction(name).items()), part["command"]])
        lines += ["", f"## {name}", f"`{command}`  ", part["machine"], "", markdown(rows)]
    return "\n".join(lines) + "\n"


def plot(path: pathlib.Path, found: dict[str, dict[str, Any]]) -> None:
    """Plots every ratio with its spread."""
    from matplotlib.figure import Figure

    rows = [row for part in found.values() for row in part["rows"] if row["ratio"] is not None]
    figure = Figure(figsize=(9, 1 + 0.3 * len(rows)), layout="constrained")
    axis = figure.add_subplot()
    places = range(len(rows), 0, -1)
    axis.barh(places, [row["ratio"] for row in rows], color="tab:blue")
    for place, row in zip(places, rows):
        axis.plot([row["ratio_min"], row["ratio_max"]], [place, place], color="black")
    axis.axvline(1, color="gray", linewidth=1)
    axis.set_yticks(places, [row["what"] for row in rows], fontsize=8)
    axis.set_xlabel("times better than the baseline")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main(command: Command) -> int:
    folder, failed = pathlib.Path(command.output_dir).resolve(), []
    folder.mkdir(parents=True, exist_ok=True)
    for name in tqdm(command.names, desc="measuring", unit="part"):
        path = folder / f"{name}.json"
        if not path.exists():
            try:
                measure(name, command, path)
            except UserError as error:
                failed.append(str(error))
    found = {name: json.loads(path.read_text()) for name in PARTS if (path := folder / f"{name}.json").exists()}
    if found:
        write_atomically(command.report, document(found))
        plot(pathlib.Path(command.report).with_suffix(".png"), found)
    if failed:
        raise UserError("; ".join(failed) + "; the report contains the other parts; rerun the command to repeat these")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.bench", __doc__ or ""))
