"""A conditional run through the real commands, with all training aids enabled."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import types

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import TINY_FLAGS, tiny_config
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.test_evaluate import write_classifier
from tganv2_tf import cli, evaluate, export
from tganv2_tf.config import EvalConfig
from tganv2_tf.models.generator import Generator
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run
from tganv2_tf.training.evaluations import Evaluations

RUN = ["--global_batch_size=4", "--train_steps=2", "--checkpoint_every_steps=2", "--num_previews=6"]
AIDS = [
    *("--conditional", "--noflip", "--diffaugment=color,translation,cutout", "--gradient_accumulation_steps=2"),
    *("--eval_every_steps=2", "--num_samples=8", "--repetitions=1", "--eval_batch_size=4", "--recalibration_batches=2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled shards, a classifier of the same classes, and a run of two steps, in `run`."""
    folder = tmp_path_factory.mktemp("conditional")
    write_data_set(folder / "data", [20, 24, 30, 20], num_shards=1, labels=("a", "b", "c"))
    write_classifier(folder / "classifier.npz")
    aids = [*AIDS, f"--classifier={folder}/classifier.npz", "--cache_dir="]
    where = [f"--data_dir={folder}/data", f"--model_dir={folder}/run"]
    result = fork_command("tests.quickly", "tganv2_tf.train", *TINY_FLAGS, *RUN, *where, *aids)
    assert result.returncode == 0, result.stderr
    assert "class_accuracy 0." in result.stderr
    return folder


def test_a_run_knows_its_classes(folder):
    config = Run.open(str(folder / "run")).config
    assert config.model.conditional
    assert config.model.num_classes == 3
    assert Run.open(str(folder / "run")).class_names == ("a", "b", "c")
    assert Run.open(str(folder / "run" / "best")).class_names == ("a", "b", "c")
    generator, step = load_generator(Run.open(str(folder / "run")))
    assert step == 2
    z = tf.zeros([3, 4])
    videos = generator(z, labels=tf.range(3)).numpy()
    assert np.abs(videos[0] - videos[1]).max() > 0, "the classes have been told apart by training"


def test_a_run_keeps_its_classes(folder, tmp_path):
    """Other classes of the same number are rejected before anything is written; `--init_from` names the difference."""
    write_data_set(tmp_path / "data", [20, 24, 30, 20], num_shards=1, labels=("b", "c", "d"))
    shutil.copytree(folder / "run", tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    command = ["tests.quickly", "tganv2_tf.train", *TINY_FLAGS, *RUN, "--conditional", f"--data_dir={tmp_path}/data"]
    result = fork_command(*command, "--train_steps=4", f"--model_dir={tmp_path}/run")
    difference = "only in the run: 'a'; only in the data: 'd'"
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"train: {tmp_path}/run contains a run with other classes")
    assert difference in result.stderr.splitlines()[-1]
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before and Run.open(f"{tmp_path}/run").class_names == ("a", "b", "c")
    few = ["--train_steps=1", "--preview_every_steps=0"]
    result = fork_command(*command, *few, f"--init_from={tmp_path}/run", f"--model_dir={tmp_path}/new")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(difference) == 1 and f"--init_from={tmp_path}/run: its classes" in result.stderr
    assert Run.open(f"{tmp_path}/new").class_names == ("b", "c", "d")


def test_previews_have_a_row_a_class_and_scores_their_accuracy(folder):
    found = {}
    for path in (folder / "run" / "events").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            found.update({value.tag: value.tensor for value in event.summary.value})
    assert "eval/class_accuracy" in found
    assert not any(tag.startswith("eval/class_accuracy/") for tag in found)
    width, height, gif = found["samples/level_2"].string_val
    # Six previews of three classes: three rows of two, each of 16 pixels, with 2 pixels in between.
    assert (int(width), int(height)) == (2 * 16 + 2, 3 * 16 + 2 * 2)
    assert iio.imread(io.BytesIO(gif), extension=".gif", plugin="pillow").shape[1:3] == (52, 34)
    (report,) = (folder / "run" / "evaluations").glob("step-2-*.json")
    scores = json.loads(report.read_text())["scores"]
    of_classes = [scores[f"class_accuracy/{name}"]["mean"] for name in "abc"]
    # Classes alternate: of eight videos a and b have three each, c has two.
    assert scores["class_accuracy"]["mean"] == pytest.approx(np.dot([3, 3, 2], of_classes) / 8)


def test_recalibration_changes_what_is_scored_and_nothing_that_is_kept(folder):
    generator, _ = load_generator(Run.open(str(folder / "run")))
    kept = [norm.moving_mean.numpy() for norm in generator.batch_norms]
    options = [f"--model_dir={folder}/run", f"--classifier={folder}/classifier.npz", "--scores=class_accuracy"]
    sizes = ["--num_samples=9", "--repetitions=1", "--eval_batch_size=4", "--cache_dir="]
    videos = []
    for batches in (0, 2):
        argv = [*options, *sizes, f"--recalibration_batches={batches}"]
        command, config = cli.parse(argv, evaluate.Command, EvalConfig)
        batch = next(evaluate.source(command, config, evaluate.generator_spec(command, config))[0])
        videos.append(batch.numpy())
    assert np.abs(videos[0] - videos[1]).max() > 1e-3
    again, _ = load_generator(Run.open(str(folder / "run")))
    for before, norm in zip(kept, again.batch_norms):
        np.testing.assert_array_equal(before, norm.moving_mean)


def test_training_goes_on_with_the_statistics_that_it_had():
    config = dataclasses.replace(tiny_config(), eval=EvalConfig(recalibration_batches=2))
    evaluations = Evaluations.__new__(Evaluations)  # without classifier and data
    generator = Generator(config.model)
    evaluations.config = config
    evaluations.model = types.SimpleNamespace(ema_generator=generator)  # type: ignore[assignment]
    variables = generator.variables
    before = [variable.numpy() for variable in variables]
    with evaluations._recalibrated():
        assert any((kept != now.numpy()).any() for kept, now in zip(before, variables))
    assert all((kept == now.numpy()).all() for kept, now in zip(before, variables))


def test_the_generator_alone_is_a_small_run(folder, tmp_path, capsys):
    run, alone = str(folder / "run"), str(tmp_path / "new" / "alone")
    options = (export.Command,), "tganv2_tf.export", ""
    argv = [f"--model_dir={run}", f"--output_dir={alone}", "--weights_only"]
    assert cli.run(export.main, *options, argv) == 0
    assert "alone: the generator of step 2" in capsys.readouterr().out
    assert Run.open(alone).class_names == ("a", "b", "c")
    z, labels = tf.ones([3, 4]) * [[0.1], [0.5], [-0.9]], tf.range(3)
    (before, _), (after, step) = load_generator(Run.open(run)), load_generator(Run.open(alone))
    np.testing.assert_array_equal(before(z, labels=labels), after(z, labels=labels))
    assert (step, Run.open(alone).config.model) == (2, Run.open(run).config.model)
    assert str(folder) not in (tmp_path / "new" / "alone" / "config.json").read_text(), "no path of this machine"
    for file in (tmp_path / "new" / "alone").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["alone"]
    assert cli.run(export.main, *options, argv) == 1
    assert "export: " in (said := capsys.readouterr().err) and "alone already exists; choose a new folder" in said
    recalibrated = [f"--model_dir={run}", f"--output_dir={tmp_path}/other", "--weights_only"]
    assert cli.run(export.main, *options, [*recalibrated, "--recalibration_batches=1"]) == 0
    other, _ = load_generator(Run.open(f"{tmp_path}/other"))
    assert np.abs(other(z, labels=labels) - before(z, labels=labels)).max() > 1e-3


def test_class_accuracy_through_the_command(folder, capsys):
    argv = [f"--model_dir={folder}/run", f"--classifier={folder}/classifier.npz", "--scores=class_accuracy"]
    sizes = ["--num_samples=9", "--repetitions=2", "--eval_batch_size=4", "--cache_dir="]
    options = (evaluate.Command, EvalConfig)
    assert cli.run(evaluate.main, options, "tganv2_tf.evaluate", "", [*argv, *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: float(line.split()[1]) for line in lines if "+-" in line}
    assert shown["class_accuracy"] == pytest.approx(np.mean([shown[f"class_accuracy/{n}"] for n in "abc"]), abs=1e-3)


def test_what_cannot_be_conditional_is_one_line(folder, tmp_path):
    write_data_set(tmp_path / "data", [20, 24], num_shards=1)
    where = [f"--data_dir={tmp_path}/data", f"--model_dir={tmp_path}/run"]
    result = fork_command("tganv2_tf.train", *TINY_FLAGS, *RUN, *where, "--conditional")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("train: --conditional: the videos in")
