"""Opens runs by each of their names, and reads files of their folders."""

from __future__ import annotations

import pathlib

import pytest

from tests.conftest import tiny_config
from tganv2_tf.errors import UserError
from tganv2_tf.runs import Run, record_config


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Checkpoints of steps 9 and 10, a snapshot of step 5, and a best one of step 9."""
    run = tmp_path / "run"
    config = tiny_config({"conditional": True, "num_classes": 2}, model_dir=str(run))
    record_config(config, ("a", "b"), fps=12.5)
    for name in ("checkpoints/ckpt-9", "checkpoints/ckpt-10", "snapshots/ckpt-5", "best/ckpt-9"):
        (run / name).parent.mkdir(exist_ok=True)
        for suffix in (".index", ".data-00000-of-00001"):
            (run / f"{name}{suffix}").touch()
    return run


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("", "checkpoints/ckpt-10"),  # by number, not by name
        ("best", "best/ckpt-9"),
        ("snapshots/ckpt-5", "snapshots/ckpt-5"),
        ("snapshots/ckpt-5.index", "snapshots/ckpt-5"),
    ],
)
def test_every_name_of_a_run_finds_its_folder(folder: pathlib.Path, name: str, checkpoint: str) -> None:
    run = Run.open(folder / name)
    assert (run.folder, run.checkpoint) == (str(folder), str(folder / checkpoint))
    assert run.exists and run.class_names == ("a", "b") and run.fps == 12.5
    assert run.config.train.model_dir == str(folder)


def test_a_pinned_run_stays_at_its_checkpoint(folder: pathlib.Path) -> None:
    pinned = Run.open(folder).pinned()
    for suffix in (".index", ".data-00000-of-00001"):
        (folder / f"checkpoints/ckpt-11{suffix}").touch()
    assert Run.open(folder).checkpoint == str(folder / "checkpoints/ckpt-11")
    assert Run.open(pinned.name).checkpoint == pinned.checkpoint == str(folder / "checkpoints/ckpt-10")


def test_a_run_without_checkpoints_and_no_run_at_all(tmp_path: pathlib.Path) -> None:
    record_config(tiny_config(model_dir=str(tmp_path / "new")))
    new, nothing = Run.open(tmp_path / "new"), Run.open(tmp_path / "nothing")
    assert new.exists and new.checkpoint is None and new.class_names == () and new.fps == 0
    assert not nothing.exists and nothing.checkpoint is None and nothing.folder == str(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing: no such folder or checkpoint"):
        _ = nothing.config


@pytest.mark.parametrize(
    ("inside", "name", "folder_of_it"),
    [
        ("", ".", "."),
        ("", "best", "."),
        ("", "snapshots/ckpt-5", "."),
        ("best", ".", ".."),
        ("snapshots", "ckpt-5", ".."),
    ],
)
def test_names_from_inside_a_run(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, inside: str, name: str, folder_of_it: str
) -> None:
    monkeypatch.chdir(folder / inside)
    run = Run.open(name)
    assert run.folder == folder_of_it and run.exists and run.checkpoint is not None
