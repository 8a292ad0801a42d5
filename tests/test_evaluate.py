"""The evaluate command, and evaluation during training, through the real commands."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tganv2_tf
from data_prep.moving_shapes import write_video
from tests.conftest import run_command, tiny_config
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tganv2_tf import cli
from tganv2_tf.config import EvalConfig
from tganv2_tf.data.manifest import checksum
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.evaluate import Command, generator_spec, main, source
from tganv2_tf.evaluation.c3d import C3D, C3DConfig
from tganv2_tf.evaluation.classifier import save_classifier
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import latents_from_seeds
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run, latest_checkpoint, record_config
from tganv2_tf.sampling.scored import GeneratorSpec, load_scored_generator
from tganv2_tf.serving.signatures import export
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.loop import make_model
from tganv2_tf.training.snapshots import keep_best

by_function: Any = tganv2_tf.evaluate  # the module of the command, which is callable
SHAPE = {"side": 32, "channels": (2, 2, 2, 2, 2, 2, 4, 4), "units": (8, 8), "num_classes": 3}
SCORES = {"inception_score", "effective_classes", "c3d_fid", "precision", "recall", "density", "coverage"}


def write_classifier(path: pathlib.Path, seed: int = 0, accuracy: float = 0.9) -> None:
    """Saves a classifier with random weights and an arbitrary accuracy: its scores are meaningless but finite."""
    tf.keras.utils.set_random_seed(seed)
    shape = {name: list(value) if isinstance(value, tuple) else value for name, value in SHAPE.items()}
    metadata = {"format": 1, "shape": shape, "labels": ["a", "b", "c"], "recipe": {}}
    metadata |= {"test_accuracy": accuracy, "test_clips": 160, "test_videos": 40}
    save_classifier(C3D(C3DConfig(**SHAPE)), metadata, path)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards, a classifier, a run at step 3 and its SavedModel."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_data_set(folder / "data", [20, 24, 30], num_shards=1, labels=("a", "b", "c"))
    write_classifier(folder / "classifier.npz")
    config = tiny_config(data={"data_dir": str(folder / "data"), "flip": False}, model_dir=str(folder / "run"))
    model = make_model(config)
    model.ema_generator.set_weights(Generator(config.model).get_weights())  # different from the initial weights
    model.step.assign(3)
    CheckpointFolder(model).save(3)
    record_config(config)
    export(model.ema_generator, folder / "saved")
    return folder


def tiny_flags(folder, model_dir):
    """Runs of one level without the penalty: the effect of evaluation on training is the same for all models."""
    return [
        *("--resolution=16", "--num_frames=4", "--z_dim=4", "--lstm_channels=4", "--r1_weight=0"),
        *("--frame_strides=", "--batch_strides=", "--up_channels=4,4,4", "--discriminator_channels=4"),
        *("--global_batch_size=4", "--num_previews=1", "--checkpoint_every_steps=2"),
        *(f"--data_dir={folder / 'data'}", f"--model_dir={model_dir}"),
    ]


def evaluate(folder, *flags, run=fork_command):
    counts = ["--num_samples=8", "--repetitions=2", "--eval_batch_size=4", f"--cache_dir={folder / 'cache'}"]
    return run("tganv2_tf.evaluate", f"--classifier={folder / 'classifier.npz'}", *counts, *flags)


def test_a_run_a_saved_model_and_videos_of_the_same_generator(folder, tmp_path):
    scores = f"--scores={','.join(sorted(SCORES))}"
    result = evaluate(folder, f"--model_dir={folder / 'run'}", scores, run=run_command)
    assert result.returncode == 0, result.stderr
    (path,) = (folder / "run" / "evaluations").glob("step-3-*.json")
    assert f"Report: {path}" in result.stdout
    report = json.loads(path.read_text())
    assert set(report["scores"]) == SCORES
    for name, score in report["scores"].items():
        assert f"{name} " in result.stdout and f"{score['mean']:.4f} +- {score['std']:.4f}" in result.stdout
        assert len(score["values"]) == 2 and np.isfinite(score["values"]).all()
    assert 1 <= report["scores"]["inception_score"]["mean"] <= 3
    assert report["generated"]["step"] == 3 and report["generated"]["config"]["model"]["z_dim"] == 4
    assert set(report["generated"]["checkpoint"]) == {"ckpt-3.index", "ckpt-3.data-00000-of-00001"}
    assert report["protocol"]["real"]["flip"] is False and report["protocol"]["real"]["clips"] == 30
    assert report["protocol"]["networks"][0]["files"] == [checksum(folder / "classifier.npz")]
    events = [
        (event.step, value.tag)
        for file in (folder / "run" / "events").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert {tag for step, tag in events if step == 3} == {
        f"eval/{name}{end}" for name in SCORES for end in ("", "_std")
    }

    # The same latents through the exported model: the same scores up to rounding.
    output = tmp_path / "saved.json"
    real = [f"--data_dir={folder / 'data'}", "--flip=no"]
    result = evaluate(folder, f"--saved_model={folder / 'saved' / '1'}", *real, f"--output={output}")
    assert result.returncode == 0, result.stderr
    saved = json.loads(output.read_text())["scores"]
    assert set(saved) == {"inception_score", "c3d_fid"}
    for name, score in saved.items():
        np.testing.assert_allclose(score["values"], report["scores"][name]["values"], rtol=1e-3)


def test_untrained_and_real_sides(folder, tmp_path):
    scores = {}
    for name, flags in (
        ("untrained", [f"--model_dir={folder / 'run'}", "--untrained"]),
        ("real", [f"--clips_dir={folder / 'data'}", f"--data_dir={folder / 'data'}", "--flip=no"]),
    ):
        result = evaluate(folder, *flags, f"--output={tmp_path / name}.json")
        assert result.returncode == 0, result.stderr
        scores[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert scores["untrained"]["generated"]["step"] == 0
    fid = {name: report["scores"]["c3d_fid"]["mean"] for name, report in scores.items()}
    assert fid["real"] < fid["untrained"]
    assert scores["real"]["generated"]["shards"] == scores["real"]["protocol"]["real"]["shards"]


def test_untrained_is_what_training_begins_with(folder):
    argv = [f"--model_dir={folder / 'run'}", "--untrained", f"--classifier={folder / 'classifier.npz'}"]
    command, config = cli.parse(argv, Command, EvalConfig)
    batches, _, about, _ = source(command, config, generator_spec(command, config))
    assert about["step"] == 0
    beginning = make_model(Run.open(str(folder / "run")).config).generator
    seeds = tf.range(16, dtype=tf.int64)
    np.testing.assert_allclose(next(batches), beginning(latents_from_seeds(seeds, 4), num_frames=16), atol=1e-6)


def test_a_folder_of_videos(folder, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(9):
        write_video(tmp_path / f"{number}.avi", rng.integers(0, 256, (16, 16, 16, 3), np.uint8))
    result = evaluate(folder, f"--video_dir={tmp_path}", "--scores=inception_score", f"--output={tmp_path}/o.json")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "o.json").read_text())
    assert len(report["scores"]["inception_score"]["values"]) == 1, "eight for a repetition, and one is left"
    assert report["protocol"]["real"] is None


def test_video_files_are_cropped_as_the_real_ones_were(folder, tmp_path):
    write_video(tmp_path / "wide.avi", np.zeros((16, 16, 32, 3), np.uint8))
    for flags, shape, framing in (
        ([f"--data_dir={folder / 'data'}"], (1, 16, 16, 16, 3), {"resolution": 16, "geometry": "paper"}),
        ([], (1, 16, 16, 32, 3), None),
    ):
        command, config = cli.parse([f"--video_dir={tmp_path}", *flags], Command, EvalConfig)
        batches, _, about, _ = source(command, config, None)
        assert next(batches).shape == shape and about["framing"] == framing


def test_shards_that_were_prepared_otherwise_are_told(folder, tmp_path, caplog):
    write_data_set(tmp_path / "other", [16], height=32, width=32)
    for name, told in (("other", 1), ("data", 0)):
        clips_dir = tmp_path / name if told else folder / name
        flags = [f"--clips_dir={clips_dir}", f"--data_dir={folder / 'data'}"]
        command, config = cli.parse(flags, Command, EvalConfig)
        source(command, config, None)
        said = "frames (32 pixels, paper) were prepared differently from the real ones (16 pixels, paper)"
        assert [said in record.getMessage() for record in caplog.records] == [True] * told
        caplog.clear()


@pytest.mark.parametrize(
    ("flags", "kind", "message"),
    [
        ([], ConfigError, "specify exactly one of --model_dir, --saved_model, --video_dir"),
        (["--model_dir=run", "--video_dir=videos"], ConfigError, "specify exactly one of --model_dir"),
        (["--model_dir={}/none"], UserError, "/none: no such folder"),
        (["--model_dir={}/run", "--scores=is"], ConfigError, "--scores=is: valid: some of inception_score"),
        (["--model_dir={}/run", "--scores=fvd"], ConfigError, "--i3d is missing"),
        (["--model_dir={}/run", "--scores=kvd", "--i3d={}/none"], UserError, "no SavedModel found"),
        (["--model_dir={}/run", "--classifier="], ConfigError, "--classifier is missing"),
        (["--model_dir={}/run", "--classifier={}/none.npz"], UserError, r"none\.npz: no such file"),
        (["--model_dir={}/run", "--data_dir={}/none"], UserError, "none: no such folder"),
        (["--saved_model={}/saved/1"], ConfigError, "--data_dir is missing"),
        (["--video_dir={}/none", "--scores=inception_score"], UserError, "none: no such folder"),
        (
            ["--model_dir={}/run", "--num_samples=5"],
            ConfigError,
            "--num_samples=5: valid: a whole number of at least 6",
        ),
        (["--saved_model={}/saved/1", "--untrained"], ConfigError, "--untrained=true: valid: with --model_dir only"),
    ],
)
def test_wrong_input_is_one_line(folder, flags, kind, message):
    flags = [flag.replace("{}", str(folder)) for flag in (f"--classifier={folder / 'classifier.npz'}", *flags)]
    with pytest.raises(kind, match=message) as raised:
        main(*cli.parse([*flags, f"--cache_dir={folder / 'cache'}"], Command, EvalConfig))
    assert "\n" not in str(raised.value)


def test_a_run_that_cannot_be_written_is_told_before_the_work(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    (tmp_path / "run" / "evaluations").write_text("a file where the folder of the reports should be")
    flags = [f"--model_dir={tmp_path / 'run'}", f"--classifier={tmp_path / 'none.npz'}"]
    with pytest.raises(
        UserError, match=rf"the report in {tmp_path}/run: cannot be written: Not a dir.* with --output$"
    ):
        main(*cli.parse(flags, Command, EvalConfig))
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        main(*cli.parse([*flags, f"--output={tmp_path / 'report.json'}"], Command, EvalConfig))


def test_real_videos_that_are_never_seen_are_told(folder, tmp_path, caplog):
    write_data_set(tmp_path / "data", [20, 15, 24])
    flags = [f"--clips_dir={folder / 'data'}", f"--data_dir={tmp_path / 'data'}", "--scores=c3d_fid"]
    flags += ["--num_samples=6", "--repetitions=1", "--real_passes=2", "--cache_dir="]
    main(*cli.parse([*flags, f"--classifier={folder / 'classifier.npz'}"], Command, EvalConfig))
    said = "1 of 3 videos are shorter than the 16 frames of a clip and are never used."
    assert [record for record in caplog.records if record.getMessage() == f"{tmp_path / 'data'}: {said}"]


def test_wrong_input_to_the_command(folder):
    for flags, status in ((["--model_dir=none"], 1), (["--scores=is"], 2)):
        result = evaluate(folder, *flags)
        assert result.returncode == status
        assert result.stderr.startswith("evaluate: ") and len(result.stderr.splitlines()) == 1
        assert result.stdout == ""


def test_the_function_returns_what_the_command_reports(folder, tmp_path):
    options: dict[str, Any] = {
        "num_samples": 8,
        "repetitions": 2,
        "eval_batch_size": 4,
        "cache_dir": str(folder / "cache"),
    }
    classifier, scores, output = folder / "classifier.npz", sorted(SCORES), tmp_path / "report.json"
    flags = [f"--{name}={value}" for name, value in options.items()]
    flags += [f"--classifier={classifier}", f"--scores={','.join(scores)}"]
    main(*cli.parse([*flags, f"--model_dir={folder / 'run'}", f"--output={output}"], Command, EvalConfig))
    reports = set((folder / "run").rglob("*.json"))
    found = by_function(folder / "run", classifier=classifier, scores=scores, **options)
    assert found == {name: of["mean"] for name, of in json.loads(output.read_text())["scores"].items()}
    assert set((folder / "run").rglob("*.json")) == reports, "no file is written"

    # The first videos of seed 0 are those of the seeds 0, 1, 2, ..., up to quantization; of an export, up to rounding.
    videos = tganv2_tf.load(folder / "run").videos(range(16), num_frames=16)
    for same in (videos, folder / "saved" / "1"):
        close = by_function(same, folder / "data", classifier, flip="no", **options)
        for name in ("inception_score", "c3d_fid"):
            np.testing.assert_allclose(close[name], found[name], rtol=0.05)
    alone = by_function(videos[:8], classifier=classifier, scores="inception_score", num_samples=8)
    assert list(alone) == ["inception_score"]


@pytest.mark.parametrize("kind", ["run", "saved"])
def test_a_first_frame_selects_later_frames(folder, kind):
    run = Run.open(str(folder / "run"))
    options: dict[str, Any] = {"run": run} if kind == "run" else {"saved_model": str(folder / "saved" / "1")}
    spec = GeneratorSpec(**options, first_frame=5)
    found = load_scored_generator(spec).batch(spec, 0, 2)
    generator, _ = load_generator(run)
    expected = generator(latents_from_seeds(tf.constant([0, 1], tf.int64), generator.config.z_dim), num_frames=21)
    np.testing.assert_allclose(found, expected[:, 5:], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"num_smaples": 8}, ValueError, "^num_smaples: no such option; valid: c3d_mean, .*num_samples"),
        ({"num_samples": 5}, ValueError, "^num_samples=5: valid: a whole number of at least 6"),
        ({"scores": ["is"]}, ValueError, "^scores=is: valid: some of inception_score"),
        ({"classifier": ""}, ValueError, "^classifier is missing"),
        ({"data_dir": ""}, ValueError, "^data_dir is missing"),
        ({"clips_dir": "x"}, ValueError, "specify exactly one of model_dir, saved_model, video_dir, clips_dir"),
        ({"first_frame": 1}, ValueError, "first_frame=1: valid: with generators only"),
        ({"truncation": 0.5}, ValueError, "truncation=0.5: valid: with generators only"),
        ({"videos": np.zeros([6, 15, 8, 8, 3], np.uint8)}, UserError, "^videos: 15 frames; the scores need 16"),
        ({"videos": np.zeros([6, 16, 8, 8, 3])}, UserError, r"^videos: float64 \[6, 16, 8, 8, 3\]; valid: uint8"),
        ({"videos": np.zeros([6, 16, 8, 8], np.uint8)}, UserError, r"^videos: uint8 \[6, 16, 8, 8\]; valid"),
        ({"videos": [[0]]}, UserError, "^videos: int64"),
        ({"videos": "none"}, UserError, "^none: no such folder"),
    ],
)
def test_wrong_arguments_of_the_function(folder, arguments, kind, message):
    arguments = {
        "videos": np.zeros([6, 16, 8, 8, 3], np.uint8),
        "classifier": folder / "classifier.npz",
        "data_dir": folder / "data",
        **arguments,
    }
    with pytest.raises(kind, match=message) as error:
        by_function(**arguments)
    assert "--" not in str(error.value)


def test_scores_by_a_classifier_that_has_not_learned_are_doubted(folder, tmp_path, caplog):
    path = tmp_path / "guess.npz"
    write_classifier(path, accuracy=0.35)
    doubt = f"{path}: it has not learned its classes: 35.0% of 160 clips of 40 test videos classified correctly"

    def warnings():
        said = [record.getMessage() for record in caplog.records if "has not learned" in record.getMessage()]
        caplog.clear()
        return said

    videos = np.zeros([6, 16, 8, 8, 3], np.uint8)
    by_function(videos, classifier=path, scores="inception_score", num_samples=6)
    (said,) = warnings()
    assert said.startswith(doubt) and said.endswith("its scores are meaningless.")
    by_function(videos, classifier=folder / "classifier.npz", scores="inception_score", num_samples=6)
    assert not warnings()
    flags = [*tiny_flags(folder, tmp_path / "run"), "--train_steps=2", "--eval_every_steps=2", f"--classifier={path}"]
    flags += ["--num_samples=8", "--repetitions=1", "--eval_batch_size=4", "--cache_dir="]
    result = fork_command("tests.quickly", "tganv2_tf.train", *flags)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(doubt) == 1


def test_training_keeps_the_best_checkpoint_by_the_chosen_score(folder, tmp_path):
    flags = [*tiny_flags(folder, tmp_path / "run"), "--train_steps=6", "--keep_checkpoints=1"]
    flags += ["--eval_every_steps=2", "--best_score=c3d_fid", f"--classifier={folder / 'classifier.npz'}"]
    flags += ["--num_samples=8", "--repetitions=1", "--eval_batch_size=4", f"--cache_dir={tmp_path / 'cache'}"]
    flags += ["--generator_learning_rate=0.05", "--learning_rate_decay=none"]
    result = fork_command("tganv2_tf.train", *flags)
    assert result.returncode == 0, result.stderr
    events = {
        event.step: tf.make_ndarray(value.tensor).item()
        for file in (tmp_path / "run" / "events").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
        if value.tag == "eval/c3d_fid"
    }
    assert set(events) == {2, 4, 6}
    best = min(events, key=lambda step: events[step])
    kept = sorted(path.name for path in (tmp_path / "run" / "best").iterdir())
    assert kept == ["best.json", f"ckpt-{best}.data-00000-of-00001", f"ckpt-{best}.index"]
    record = json.loads((tmp_path / "run" / "best" / "best.json").read_text())
    assert record["checkpoint"] == f"ckpt-{best}" and record["score"] == "c3d_fid"
    assert record["value"] == pytest.approx(events[best], rel=1e-6)
    assert f"Step {best}: inception_score" in result.stderr and "the best so far" in result.stderr

    # It is an ordinary checkpoint, and its score is the measured one.
    assert load_generator(Run.open(str(tmp_path / "run" / "best")))[1] == best
    result = evaluate(
        folder, f"--model_dir={tmp_path / 'run' / 'best'}", "--repetitions=1", "--seed=0", "--num_samples=8"
    )
    assert result.returncode == 0, result.stderr
    reports = (tmp_path / "run" / "evaluations").glob(f"step-{best}-*.json")
    values = [json.loads(path.read_text())["scores"]["c3d_fid"]["mean"] for path in reports]
    assert values == pytest.approx([record["value"]] * 2, rel=1e-3), "of the training, and of the command"
    result = fork_command(
        "tganv2_tf.generate", f"--model_dir={tmp_path}/run/best", "--seeds=0", f"--output={tmp_path}/a.png"
    )
    assert result.returncode == 0, result.stderr

    # A resumed run compares new checkpoints with the best existing one, and scores those it had not scored yet.
    keep_best(str(tmp_path / "run" / "checkpoints" / "ckpt-6"), "c3d_fid", -1e9, record["protocol"])
    for path in (tmp_path / "run" / "evaluations").glob("step-6-*.json"):
        path.unlink()
    result = fork_command("tests.quickly", "tganv2_tf.train", *flags, "--train_steps=8")
    assert result.returncode == 0, result.stderr
    assert "Step 6: inception_score" in result.stderr and "Step 8: inception_score" in result.stderr
    assert "the best so far" not in result.stderr
    assert (tmp_path / "run" / "best" / "ckpt-6.index").exists()


def test_what_is_wrong_with_the_classifier_ends_training_before_it_begins(folder, tmp_path):
    (tmp_path / "other.npz").write_bytes(b"no archive")
    flags = [*tiny_flags(folder, tmp_path / "run"), "--train_steps=2", "--eval_every_steps=2"]
    result = fork_command("tganv2_tf.train", *flags, f"--classifier={tmp_path / 'other.npz'}")
    assert result.returncode == 1
    assert "other.npz: cannot be read" in result.stderr and "Traceback" not in result.stderr
    assert latest_checkpoint(tmp_path / "run") is None
    result = fork_command("tganv2_tf.train", *flags)
    assert result.returncode == 2
    assert "--eval_every_steps=2: valid: 0 without --classifier" in result.stderr
