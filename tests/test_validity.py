"""Classifiers of other classes and too few samples: rejected or reported before the work begins."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from data_prep.shapes import CLASSES as SHAPES
from tests.conftest import tiny_config
from tests.data_sets import write_data_set
from tganv2_tf import cli, evaluate
from tganv2_tf.config import EvalConfig
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import ConfigError
from tganv2_tf.evaluation import metrics, ucf101, validity
from tganv2_tf.evaluation.c3d import C3D, C3DConfig
from tganv2_tf.evaluation.classifier import save_classifier
from tganv2_tf.evaluation.networks import load_c3d_network
from tganv2_tf.evaluation.real_features import RealStatistics
from tganv2_tf.models.generator import Generator
from tganv2_tf.runs import record_config
from tganv2_tf.training.evaluations import Evaluations

UNITS = 8  # features of the classifiers


def write_classifier(path: pathlib.Path, num_classes: int, labels: tuple[str, ...] = ()) -> str:
    """Saves a classifier with random weights."""
    shape = {"side": 32, "channels": (2,) * 8, "units": (UNITS, UNITS), "num_classes": num_classes}
    metadata = {"format": 1, "shape": shape, "labels": labels, "recipe": {}}
    metadata |= {"test_accuracy": 0.9, "test_clips": 160, "test_videos": 40}
    save_classifier(C3D(C3DConfig(**shape)), metadata, path)  # type: ignore[arg-type]
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Shards of three classes, and a run that is conditional on them."""
    folder = tmp_path_factory.mktemp("validity")
    write_data_set(folder / "data", [20, 24, 30], num_shards=1, labels=SHAPES[:3])
    config = tiny_config({"conditional": True, "num_classes": 3}, {"data_dir": str(folder / "data")})
    record_config(config, SHAPES[:3], str(folder / "run"))
    checkpoint = tf.train.Checkpoint(ema_generator=Generator(config.model), step=tf.Variable(3, dtype=tf.int64))
    tf.train.CheckpointManager(checkpoint, str(folder / "run" / "checkpoints"), 1).save(3)
    return folder


def test_columns_go_by_name() -> None:
    assert validity.classifier_columns(["day", "Night"], ["night", "dusk", "day"]) == [2, 0]
    assert validity.classifier_columns(["A", "a"], ["a", "A"]) == [1, 0], "capitals count where they tell classes apart"
    for labels, message in (
        (["night", "day"], "it lacks the class 'noon', 'dawn'; its classes are 'night', 'day'; train one on the same"),
        ([], "its class names are unknown"),
    ):
        with pytest.raises(ConfigError, match=message):
            validity.classifier_columns(["day", "noon", "dawn"], labels)
    with pytest.raises(ConfigError, match="the videos have no classes"):
        validity.classifier_columns([], ["night", "day"])


def test_a_nameless_classifier_of_101_classes_is_of_ucf101(tmp_path: pathlib.Path) -> None:
    assert len(set(ucf101.CLASSES)) == 101 and list(ucf101.CLASSES) == sorted(ucf101.CLASSES, key=str.lower)
    network = load_c3d_network(EvalConfig(classifier=write_classifier(tmp_path / "ucf.npz", 101)))
    assert network.labels == ucf101.CLASSES
    # Lists in circulation differ in capitals.
    assert validity.classifier_columns(["HandstandPushups", "YoYo"], network.labels) == [36, 100]
    assert not load_c3d_network(EvalConfig(classifier=write_classifier(tmp_path / "x.npz", 100))).labels
    named = tuple(f"class{i}" for i in range(101))
    path = write_classifier(tmp_path / "named.npz", 101, named)
    assert load_c3d_network(EvalConfig(classifier=path)).labels == named


def test_other_classes_are_named() -> None:
    (said,) = validity.other_classes(["a", "b, c", "d"], ["A", "x"])
    assert "it lacks 'b, c', 'd'. " in said
    for names, labels in ((["a"], ["b", "a"]), ([], ["a"]), (["a"], [])):
        assert not list(validity.other_classes(names, labels))


def test_too_few_samples_are_counted() -> None:
    small, large = metrics.Moments(), metrics.Moments()
    small.update(np.random.default_rng(0).normal(size=(12, 10)))
    large.mean, large.count = np.zeros(4096), 95_370  # ten clips of each training video of UCF101
    real = {"c3d": RealStatistics(small, np.zeros([0, 10])), "i3d": RealStatistics(large, np.zeros([0, 4096]))}
    for score, generated, start in (
        ("c3d_fid", 9, "c3d_fid: 9 generated videos for 10 features. "),
        ("c3d_fid", 10, ""),
        ("precision", 9, ""),
        ("fvd", 2047, "fvd: 2047 generated videos for 4096 features. "),
        ("fvd", 2048, ""),  # the paper's protocol
    ):
        said = list(validity.too_few([score], generated, real))
        assert len(said) == bool(start) and "".join(said).startswith(start)
    small.count = 9
    (line,) = validity.too_few(["c3d_fid", "recall"], 10, real)
    assert line.startswith("c3d_fid: 9 real clips for 10 features. ") and line.endswith("raise --real_passes.")


def run(folder: pathlib.Path, *flags: str) -> int:
    argv = [f"--model_dir={folder}/run", "--num_samples=6", "--repetitions=1", "--eval_batch_size=6", *flags]
    return cli.run(evaluate.main, (evaluate.Command, EvalConfig), "tganv2_tf.evaluate", "", argv)


def test_class_accuracy_by_other_classes_is_refused_before_real_clips_are_read(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = write_classifier(tmp_path / "ucf.npz", 101)
    options = [f"--classifier={classifier}", f"--cache_dir={tmp_path}/cache"]
    assert run(folder, *options, "--scores=class_accuracy,c3d_fid") == 2
    said = capsys.readouterr()
    assert "evaluate: --classifier: it lacks the class 'CircleDown', 'CircleLeft', 'CircleRight'; its" in said.err
    assert not said.out and not (tmp_path / "cache").exists()


def warnings_of(monkeypatch: pytest.MonkeyPatch, function: Callable[[], object]) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: said.append(text % words))
    function()
    return said


def test_few_videos_and_a_classifier_of_other_classes_are_named(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [f"--classifier={write_classifier(tmp_path / 'ucf.npz', 101)}", f"--cache_dir={tmp_path}/cache"]
    same = [f"--classifier={write_classifier(tmp_path / 'same.npz', 3, SHAPES[:3])}", f"--cache_dir={tmp_path}/cache"]
    names = "it lacks 'CircleDown', 'CircleLeft', 'CircleRight'. "
    first, second, third = warnings_of(monkeypatch, lambda: run(folder, *other, "--real_passes=2"))
    assert names in first
    assert second.startswith(f"c3d_fid: 6 generated videos for {UNITS} features. ")
    assert third.startswith(f"c3d_fid: 6 real clips for {UNITS} features. ")
    (first,) = warnings_of(monkeypatch, lambda: run(folder, *other, "--scores=inception_score"))
    assert names in first, "the classes of the generator, if no data are read"
    assert not warnings_of(monkeypatch, lambda: run(folder, *same, f"--num_samples={UNITS}", "--real_passes=3"))


def test_training_that_scores_says_the_same_when_it_begins(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.load(folder / "data")

    def begin(classifier: str, model: dict[str, Any], chief: bool = True) -> None:
        scores = EvalConfig(num_samples=6, real_passes=3, classifier=classifier, cache_dir=f"{tmp_path}/cache")
        config = tiny_config(model, {"data_dir": str(folder / "data")}, model_dir=str(tmp_path))
        config = dataclasses.replace(config, eval=scores)
        Evaluations(None, config, manifest, chief)  # type: ignore[arg-type]

    other = write_classifier(tmp_path / "ucf.npz", 101)
    with pytest.raises(ConfigError, match="it lacks the class 'CircleDown', 'CircleLeft', 'CircleRight'; its"):
        begin(other, {"conditional": True, "num_classes": 3})
    assert not (tmp_path / "cache").exists(), "no real clips were read"
    first, second = warnings_of(monkeypatch, lambda: begin(other, {}))
    assert "it lacks 'CircleDown', 'CircleLeft', 'CircleRight'. " in first
    assert second.startswith(f"c3d_fid: 6 generated videos for {UNITS} features. ")
    assert not warnings_of(monkeypatch, lambda: begin(other, {}, chief=False)), "one worker is enough"
