"""Writes tests/data/lanes/LANE: the files of a tiny run in the lane of this Python, for tests of the other lane.

python -m tests.lane_files

The run is conditional and has two levels; its checkpoint of step 2 contains everything needed to resume. `videos.npz`
contains the videos of two seeds.
"""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from tests.conftest import ROOT, TINY_FLAGS, run_command
from tests.data_sets import write_data_set
from tganv2_tf.runtime import lanes
from tganv2_tf.sampling.sampler import load_sampler

FOLDER = ROOT / "tests" / "data" / "lanes"
LANES = ("pinned", "current")
SEEDS, LABELS = (3, 5), (1, 0)


def train(data_dir: pathlib.Path, model_dir: pathlib.Path, steps: int, run: Any = run_command) -> str:
    """Trains the run up to a step, or resumes it; `run` is like `run_command`. Returns the log of the command."""
    write_data_set(data_dir, [8] * 8, labels=("left", "right"))
    result = run(
        "tganv2_tf.train",
        *TINY_FLAGS,
        *("--conditional", "--discriminator_channels=4", "--up_channels=2,2,2,2", "--lstm_channels=2"),
        *("--global_batch_size=4", "--num_previews=2", "--preview_every_steps=10", "--checkpoint_every_steps=10"),
        *(f"--data_dir={data_dir}", f"--model_dir={model_dir}", f"--train_steps={steps}"),
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def variables(checkpoint: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all numbers in a checkpoint, by name."""
    reader = tf.train.load_checkpoint(str(checkpoint))
    names = [name for name in reader.get_variable_to_shape_map() if "_CHECKPOINTABLE_OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names}


def main() -> None:
    """Writes the files of this lane."""
    target = FOLDER / LANES[lanes.has_legacy_keras()]
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        train(pathlib.Path(folder) / "data", run, 2)
        shutil.rmtree(run / "events")
        exported = run_command("tganv2_tf.export", f"--model_dir={run}", f"--output_dir={folder}/export")
        assert exported.returncode == 0, exported.stderr
        shutil.copytree(run, target / "run", ignore=shutil.ignore_patterns(".lock"))
        config = target / "run" / "config.json"
        config.write_text(config.read_text().replace(f"{folder}/", ""))
        shutil.copytree(pathlib.Path(folder) / "export" / "1", target / "export")
    sampler = load_sampler(str(target / "run"))
    np.savez_compressed(target / "videos.npz", videos=sampler.float_videos(sampler.latents(SEEDS), labels=LABELS))


if __name__ == "__main__":
    main()
