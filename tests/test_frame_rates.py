"""The frame rate of the training data, from the manifest to the run, its exports, and the written videos."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from tests.conftest import ONE_LEVEL, tiny_config
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.small_runs import write_run
from tests.test_commands import step_by_step
from tests.test_training_commands import SMALL, train
from tganv2_tf import export, generate
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.runs import Run, record_config
from tganv2_tf.sampling.sampler import load_sampler
from tganv2_tf.video_io.decoding import open_video


def _run(folder: pathlib.Path, fps: float) -> str:
    """A run with initial weights."""
    write_run(tiny_config(ONE_LEVEL, model_dir=str(folder)), folder, fps=fps)
    return str(folder)


def _rate_of(output: pathlib.Path, *arguments: str, **where: str) -> float:
    flags = [f"--{name}={value}" for name, value in where.items()]
    result = fork_command("tganv2_tf.generate", *flags, "--seeds=0", f"--output={output}", *arguments)
    assert result.returncode == 0, result.stderr
    return open_video(output).fps


def test_training_records_the_rate_of_its_clips(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path / "data", [40] * 4)
    dataclasses.replace(manifest, frame_rates={"24": 1, "25": 3}).save(tmp_path / "data")
    how = [*SMALL, "--train_steps=1", "--frame_step=2", "--preview_every_steps=0"]
    train(str(tmp_path / "data"), tmp_path / "run", *how, run=step_by_step)
    assert Run.open(str(tmp_path / "run")).fps == 12.5


def test_runs_and_exports_play_at_the_rate_of_their_data(tmp_path: pathlib.Path) -> None:
    run = _run(tmp_path / "run", 12.5)
    assert export.main(export.Command(model_dir=run, output_dir=str(tmp_path / "saved"))) == 0
    assert export.main(export.Command(model_dir=run, output_dir=str(tmp_path / "small"), weights_only=True)) == 0
    saved, small = str(tmp_path / "saved" / "1"), str(tmp_path / "small")
    assert load_sampler(run).fps == load_sampler(small).fps == load_sampler(saved_model=saved).fps == 12.5
    assert _rate_of(tmp_path / "a.mp4", model_dir=run) == 12.5
    assert _rate_of(tmp_path / "b.gif", saved_model=saved) == pytest.approx(12.5)
    assert _rate_of(tmp_path / "c.mp4", "--fps=5", model_dir=run) == 5


def test_without_a_known_rate_it_is_ten(tmp_path: pathlib.Path) -> None:
    run = _run(tmp_path / "run", 0)  # as in older versions
    assert not (tmp_path / "run" / "data.json").exists() and Run.open(run).fps == 0
    assert _rate_of(tmp_path / "a.mp4", model_dir=run) == 10


def test_a_rate_of_former_data_is_not_kept(tmp_path: pathlib.Path) -> None:
    run = _run(tmp_path / "run", 12.5)
    record_config(Run.open(run).config, fps=0)
    assert Run.open(run).fps == 0


def test_files_are_never_faster_than_players(tmp_path: pathlib.Path) -> None:
    sampler = load_sampler(_run(tmp_path / "run", 240))
    gif, mp4 = (generate.Command(output=f"a.{kind}", model_dir="x") for kind in ("gif", "mp4"))
    assert (generate.frame_rate(gif, sampler), generate.frame_rate(mp4, sampler)) == (50, 120)
    with pytest.raises(ConfigError, match=r"--fps=-1: valid: a number above 0, up to 50, or 0"):
        generate.Command(output="a.gif", model_dir="x", fps=-1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fps": "fast"}'])
def test_a_damaged_rate_is_one_line(tmp_path: pathlib.Path, content: str) -> None:
    run = _run(tmp_path / "run", 25)
    (tmp_path / "run" / "data.json").write_text(content)
    with pytest.raises(UserError, match=r"data\.json: cannot be read: "):
        assert Run.open(run).fps
