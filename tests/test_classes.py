"""Labels keep their classes: rejects runs and data whose classes have other names or another order."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from absl import logging

from tests.conftest import tiny_config
from tests.data_sets import write_data_set
from tganv2_tf.config import Config
from tganv2_tf.data.class_names import difference, quoted
from tganv2_tf.diagnosis.findings import OK, PROBLEM
from tganv2_tf.diagnosis.recipe import check_run_folder
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.runs import Run, record_config
from tganv2_tf.training.classes import check_classes, warn_of_other_classes
from tganv2_tf.training.ray_training import Cluster, _checked

NAMES = ("archery", "biking")


def conditional(folder: pathlib.Path, num_classes: int = 2, data_dir: str = "DATA", **train: Any) -> Config:
    model = {"conditional": True, "num_classes": num_classes}
    return tiny_config(model, {"data_dir": data_dir}, model_dir=str(folder), **train)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """Writes the relevant files of a run of `NAMES`: its config, its classes and the name of a checkpoint."""
    folder = tmp_path / "run"
    record_config(conditional(folder), NAMES)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "ckpt-1.index").touch()
    return folder


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: said.append(text % words))
    return said


def test_names_in_messages() -> None:
    assert quoted(["a", "b, c", "it's"]) == "'a', 'b, c', \"it's\""
    assert quoted(["a", "b", "c"], 2) == "'a', 'b' and 1 more" and quoted(["a", "b"], 2) == "'a', 'b'"


@pytest.mark.parametrize(
    ("names", "others", "expected"),
    [
        ("ab", "ab", ""),
        ("ab", "bc", "only in one: 'a'; only in two: 'c'"),
        ("ab", "abc", "only in two: 'c'"),
        ("abc", "ac", "only in one: 'b'"),
        ("abc", "acb", "label 1 is 'b' in one and 'c' in two"),
        ("abcdefghijklm", "a", "only in one: 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k' and 2 more"),
    ],
)
def test_how_lists_differ(names: str, others: str, expected: str) -> None:
    assert difference(list(names), list(others), "one", "two") == expected


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["biking", "diving"], "only in the run: 'archery'; only in the data: 'diving'"),
        (["biking", "archery"], "label 0 is 'archery' in the run and 'biking' in the data"),
        (["archery", "biking", "diving"], "only in the data: 'diving'"),
        (["archery", "Biking"], "only in the run: 'biking'; only in the data: 'Biking'"),
    ],
)
def test_a_run_is_not_resumed_with_other_classes(run: pathlib.Path, names: list[str], text: str) -> None:
    message = f"^{run} contains a run with other classes than --data_dir=DATA: {text}; choose .*$"
    with pytest.raises(ConfigError, match=message):
        check_classes(conditional(run, len(names)), names)
    finding = check_run_folder(conditional(run, len(names)), names)
    assert finding.level == PROBLEM and text in finding.text
    for folder in ("snapshots", "best"):  # other checkpoints may have been deleted
        (run / "checkpoints").rename(run / "other")
        (run / "other").rename(run / folder)
        with pytest.raises(ConfigError, match=message):
            check_classes(conditional(run, len(names)), names)
        (run / folder).rename(run / "checkpoints")
    (run / "checkpoints" / "ckpt-1.index").unlink()
    check_classes(conditional(run, len(names)), names)  # nothing has been learned yet


def test_a_run_is_resumed_with_the_same_classes_or_without_any(run: pathlib.Path, warned: list[str]) -> None:
    check_classes(conditional(run), list(NAMES))
    check_classes(tiny_config(model_dir=str(run)), ["biking", "diving"])  # labels are unused without --conditional
    assert check_run_folder(conditional(run), NAMES).level == OK
    assert check_run_folder(conditional(run)).level == OK  # for unknown data
    assert not warned
    (run / "classes.json").unlink()
    check_classes(conditional(run), ["biking", "diving"])
    assert warned == [f"{run}/classes.json: missing; the run's classes are assumed to be those of the data."]
    (run / "classes.json").write_text('["archery"')
    with pytest.raises(UserError, match=r"classes\.json: cannot be read"):
        check_classes(conditional(run), ["biking", "diving"])


def test_a_new_run_may_begin_with_networks_of_other_classes(
    run: pathlib.Path, tmp_path: pathlib.Path, warned: list[str]
) -> None:
    for source in (run, run / "checkpoints" / "ckpt-1"):
        warn_of_other_classes(conditional(tmp_path / "new", init_from=str(source)), NAMES)
        assert not warned
        warn_of_other_classes(conditional(tmp_path / "new", init_from=str(source)), ["biking", "diving"])
        assert warned == [
            f"--init_from={source}: its classes differ from those of --data_dir=DATA: only in the run: 'archery'; only "
            "in the data: 'diving'. Each label starts with the weights of the same label in --init_from."
        ]
        warned.clear()


def test_on_ray_the_driver_refuses_other_classes(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path / "data", [8] * 4, labels=("biking", "diving"))
    config = conditional(run, data_dir=str(tmp_path / "data"), distribution="ray")
    with pytest.raises(ConfigError, match="only in the run: 'archery'; only in the data: 'diving'"):
        _checked(config, Cluster())
    assert Run.open(str(run)).class_names == NAMES
