"""Custom classifiers: they learn, stop early, resume, and report errors."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT, run_command
from tests.data_sets import encode_frame, flip_byte, write_data_set
from tests.forking import fork_command
from tganv2_tf import cli, train_classifier
from tganv2_tf.data.manifest import MANIFEST_FILE, Manifest, Shard, checksum, shard_name
from tganv2_tf.data.records import NO_LABEL, encode_record
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import C3D, C3DConfig
from tganv2_tf.evaluation.classifier import load_classifier, read_metadata, save_classifier
from tganv2_tf.training.classifiers import classifier_training, examination
from tganv2_tf.training.classifiers.examination import ClipEvaluator, Result
from tganv2_tf.training.classifiers.trainer import Trainer

MODULE = "tganv2_tf.train_classifier"
TINY = C3DConfig(side=8, channels=(2,) * 8, units=(8, 8), num_classes=2)
COLOURS = ((200, 30, 30), (30, 30, 200))


def write_labelled(folder, labels, *, names=("red", "blue"), num_frames=20, split="train", colours=COLOURS):
    """Writes one shard, 16x16 pixels, one video per label in the colour of its class, with noise."""
    rng = np.random.default_rng(len(labels))
    folder.mkdir(parents=True, exist_ok=True)
    file = shard_name("colours", split, 0, 1)
    with tf.io.TFRecordWriter(str(folder / file)) as writer:
        for number, label in enumerate(labels):
            frames = rng.integers(-20, 20, (num_frames, 16, 16, 3)) + colours[label]
            encoded = [encode_frame(frame.astype(np.uint8)) for frame in frames]
            writer.write(encode_record(encoded, video_id=f"v{number}", label=label, height=16, width=16))
    size = (folder / file).stat().st_size
    shard = Shard(file, size, checksum(folder / file), len(labels), len(labels), num_frames * len(labels))
    Manifest("colours", split, 16, 16, list(names), {}, [shard]).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Flags of a training set of 12 videos, two of which are held out, and of a test set of 6."""
    folder = tmp_path_factory.mktemp("data")
    train = write_labelled(folder / "train", [0, 1] * 6)
    test = write_labelled(folder / "test", [0, 1] * 3, split="test")
    return [f"--data_dir={train}", f"--test_data_dir={test}"]


HOW = ["--steps=40", "--batch_size=8"]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A classifier made by the real command, and the command's output."""
    path = tmp_path_factory.mktemp("trained") / "deep" / "colours.npz"
    return path, run_command(MODULE, *data, *HOW, f"--output={path}")


def test_two_colours_are_told_apart(trained, data):
    path, result = trained
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{path}: 100.0% of 24 clips of 6 test videos classified correctly (2 classes)\n"
    assert "Finished all 40 steps: accuracy on 2 held-out videos 100.0% at step" in result.stderr
    assert not [line for line in result.stderr.splitlines() if re.match(r"W\d{4} ", line)], "no warning of absl"
    assert "40/40" in result.stderr and "loss" in result.stderr and "accuracy" in result.stderr, "the progress bar"
    assert [file.name for file in path.parent.iterdir()] == ["colours.npz"]
    network = load_classifier(path)
    assert network.labels == ("red", "blue") and network.num_classes == 2
    videos = np.broadcast_to(np.array(COLOURS, np.float32)[:, None, None, None] / 127.5 - 1, (2, 16, 16, 16, 3))
    probabilities = network(videos)["probabilities"].numpy()
    assert probabilities.argmax(1).tolist() == [0, 1]
    assert probabilities.max(1).min() > 0.9


def test_the_file_says_what_it_was_made_of(trained, data):
    metadata = read_metadata(trained[0])
    assert metadata["test_accuracy"] == 1.0
    assert (metadata["test_clips"], metadata["test_videos"], metadata["chance"]) == (24, 6, 0.5)
    assert (metadata["held_out_accuracy"], metadata["held_out_videos"]) == (1.0, 2)
    assert metadata["tested_on_held_out"] is False
    assert 1 <= metadata["best_step"] <= metadata["steps"] == 40
    assert metadata["labels"] == ["red", "blue"]
    assert metadata["shape"]["side"] == 32 and metadata["shape"]["num_classes"] == 2
    train, test = (os.path.join(flag.partition("=")[2], MANIFEST_FILE) for flag in data)
    assert metadata["recipe"] == {
        "size": "small",
        "steps": 40,
        "patience": 6,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "flip": False,
        "seed": 0,
        "train_manifest": checksum(train),
        "test_manifest": checksum(test),
    }
    assert metadata["versions"]["tensorflow"] == tf.__version__
    with np.load(trained[0], allow_pickle=False) as file:
        assert file["metadata"].shape == () and json.loads(str(file["metadata"])) == metadata


def test_a_stopped_training_resumes_to_the_same_bits(trained, data, tmp_path):
    path = tmp_path / "colours.npz"
    state = tmp_path / "colours.npz.unfinished"
    arguments = [*data, *HOW, f"--output={path}", "--checkpoint_every_steps=1"]
    process = subprocess.Popen([sys.executable, "-m", MODULE, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (state / "checkpoint").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "and saved; rerun the same command to resume" in said
    assert not path.exists()
    step = int(tf.train.latest_checkpoint(str(state)).rpartition("-")[2])
    assert 1 <= step < 40
    result = fork_command(MODULE, *arguments, "--checkpoint_every_steps=40")
    assert result.returncode == 0, result.stderr
    assert f"Resuming from step {step}." in result.stderr
    assert not state.exists()
    with np.load(path) as resumed, np.load(trained[0]) as straight:
        assert set(resumed.files) == set(straight.files)
        for name in resumed.files:
            np.testing.assert_array_equal(resumed[name], straight[name], err_msg=name)


def command(capsys, *arguments):
    """Runs the command in this process; returns exit status, output and errors."""
    status = cli.run(train_classifier.main, (train_classifier.Command,), MODULE, "", list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_finished_classifier_is_left_alone_and_another_is_not_overwritten(trained, data, capsys):
    path, _ = trained
    before = path.read_bytes()
    status, out, _ = command(capsys, *data, *HOW, f"--output={path}")
    assert status == 0
    assert out.startswith(f"{path}: already exists, written by the same command. 100.0% of 24 clips")
    status, _, err = command(capsys, *data, *HOW, f"--output={path}", "--seed=1", "--learning_rate=0.01")
    assert status == 2
    assert f"{path}: belongs to another training: learning_rate 0.001 (now 0.01), seed 0 (now 1)" in err
    assert path.read_bytes() == before


@pytest.fixture
def eagerly():
    """Runs eagerly: tracing takes longer than training such networks."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class OnNoise(ClipEvaluator):
    """An examination whose results change with the weights and are always better than guessing."""

    videos, chance = 20, 0.01

    def __init__(self, network):
        self.network = network

    def result(self):
        mean = float(np.mean([np.abs(weight).mean() for weight in self.network.get_weights()]))
        return Result(round(1000 * mean % 1, 1), mean, 20)


def train_in_steps(folder, *stops, seed=0, learning_rate=1e-2, patience=0, steps=10, save_every=2):
    """Trains up to each of the stops with new objects; returns the last trainer."""
    rng = np.random.default_rng(0)
    clips, labels = rng.integers(0, 255, (20, 16, 8, 8, 3), np.uint8), rng.integers(0, 2, 20)
    for stop in stops:
        tf.keras.utils.set_random_seed(seed)
        network = C3D(TINY)
        trainer = Trainer(network, tf.keras.optimizers.Adam(learning_rate), seed, OnNoise(network), 2, patience)
        batches = tf.data.Dataset.from_tensor_slices((clips, labels)).shuffle(20, seed=3).repeat().batch(4, True)
        assert trainer.run(batches, stop, folder, save_every) == 0
        assert trainer.step == stop or trainer.has_ended
    return trainer


def state_of(trainer):
    """Returns the weights, and the record of the best ones."""
    best = trainer.best
    return [*trainer.network.get_weights(), *(variable.numpy() for variable in best.variables)]


def test_the_state_holds_all_that_the_updates_depend_on(tmp_path, eagerly):
    straight = state_of(train_in_steps(tmp_path / "a", 8))
    taken_up = state_of(train_in_steps(tmp_path / "b", 2, 4, 8))
    other = state_of(train_in_steps(tmp_path / "c", 8, seed=1))
    for ours, theirs in zip(taken_up, straight):
        np.testing.assert_array_equal(ours, theirs)
    assert any((ours != theirs).any() for ours, theirs in zip(other, straight))
    assert [file.name for file in (tmp_path / "a").glob("*.index")] == ["ckpt-8.index"], "only the newest state"
    unsaved = train_in_steps(tmp_path / "d", 8, save_every=0)
    for ours, theirs in zip(state_of(unsaved), straight):
        np.testing.assert_array_equal(ours, theirs)
    assert [file.name for file in (tmp_path / "d").glob("*.index")] == ["ckpt-8.index"]


def test_training_ends_when_the_accuracy_no_longer_rises(tmp_path, eagerly, monkeypatch):
    results = iter([0.5, 0.7, 0.7, 0.6, 0.9, 0.9, 0.1])
    monkeypatch.setattr(OnNoise, "result", lambda self: Result(next(results), 1.0, 20))
    trainer = train_in_steps(tmp_path / "a", 100, patience=2)
    assert trainer.has_ended and trainer.step == 8, "2 validations after step 4, the best"
    assert (trainer.best.step, trainer.best.accuracy) == (4, 0.7)
    again = train_in_steps(tmp_path / "a", 100, patience=2)
    assert again.step == 8, "what has ended takes no further step"
    results = iter([0.1] * 20)
    assert train_in_steps(tmp_path / "b", 12, patience=0).step == 12


def test_the_initial_weights_are_fitted_to_the_data(tmp_path, eagerly, monkeypatch):
    seen = []
    monkeypatch.setattr(C3D, "fit_to", lambda network, videos: seen.append(videos))
    train_in_steps(tmp_path / "a", 2, 4)
    (videos,) = seen  # at the start, not when resumed
    assert videos.shape == (4, 16, 8, 8, 3) and float(tf.reduce_min(videos)) >= -1 and float(tf.reduce_max(videos)) <= 1


def test_videos_that_are_too_short_are_told(tmp_path, monkeypatch, caplog, eagerly):
    monkeypatch.setitem(classifier_training.SIZES, "small", TINY)
    for name, lengths in (("train", [20, 15, 24, 16]), ("test", [16, 16])):
        write_data_set(tmp_path / name, lengths, labels=("a", "b"))
    flags = [f"--data_dir={tmp_path}/train", f"--test_data_dir={tmp_path}/test", f"--output={tmp_path}/c.npz"]
    options = cli.parse([*flags, "--steps=1", "--batch_size=2"], train_classifier.Command)
    assert train_classifier.main(*options) == 0
    said = f"{tmp_path}/train: 1 of 4 videos are shorter than the 16 frames of a clip and are never used."
    assert [r.getMessage() for r in caplog.records if "shorter" in r.getMessage()] == [said]


def test_an_update_descends_the_cross_entropy_and_drops_other_units_at_each_step(monkeypatch, eagerly):
    network = C3D(TINY)
    arrays = {name: np.zeros_like(array) for name, array in network.to_arrays().items()}
    arrays["fc8/b"][:] = np.log([3.0, 1.0])
    network.assign_arrays(arrays, "by hand")
    trainer = Trainer(network, tf.keras.optimizers.SGD(1.0), 7, OnNoise(network), 2, 0)
    seeds, original = [], network.call

    def watched(videos, dropout_seed=None):
        seeds.append(dropout_seed.numpy().tolist())
        return original(videos, dropout_seed)

    monkeypatch.setattr(network, "call", watched)
    clips = np.zeros([4, 16, 8, 8, 3], np.uint8)
    # Probabilities 3/4 and 1/4; three of the clips are of class 0, so this is optimal.
    loss, accuracy = trainer.update(clips, np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(loss, -(3 * np.log(0.75) + np.log(0.25)) / 4, rtol=1e-6)
    assert accuracy == 0.75
    np.testing.assert_allclose(network.fc8.bias, np.log([3.0, 1.0]), atol=1e-6)
    # All of class 1: the gradient is probabilities minus labels, 3/4 and 1/4 - 1.
    trainer.update(clips, np.array([1, 1, 1, 1]))
    np.testing.assert_allclose(network.fc8.bias, np.log([3.0, 1.0]) + [-0.75, 0.75], atol=1e-6)
    assert seeds == [[7, 0], [7, 1]]


def test_mirroring_is_for_training_alone_and_held_out_videos_for_validation(data, tmp_path, capsys, monkeypatch):
    drawn = []

    def watched(original):
        def labelled_clips(manifest, config, *arguments, **options):
            clips = original(manifest, config, *arguments, **options)
            ids = [f"v{number}" for number in range(manifest.num_videos)]
            drawn.append((manifest.split, config.flip, {name for name in ids if options["keep"](tf.constant(name))}))
            return clips

        return labelled_clips

    for module in (classifier_training, examination):
        monkeypatch.setattr(module, "labelled_clips", watched(module.labelled_clips))
    monkeypatch.setattr(Trainer, "run", lambda *arguments: 0)
    monkeypatch.setitem(classifier_training.SIZES, "small", TINY)
    for arguments in ([], ["--flip"]):
        drawn.clear()
        output = f"--output={tmp_path}/{len(arguments)}.npz"
        assert command(capsys, *data, output, "--steps=1", "--batch_size=2", *arguments)[0] == 0
        (_, _, trained), (_, _, held_out), (_, _, tested) = drawn
        assert [each[:2] for each in drawn] == [("train", bool(arguments)), ("train", False), ("test", False)]
        assert len(trained) == 10 and len(held_out) == 2 and not trained & held_out and len(tested) == 6


def test_without_test_videos_those_that_are_held_out_tell_the_accuracy(data, tmp_path, capsys, monkeypatch, eagerly):
    monkeypatch.setitem(classifier_training.SIZES, "small", TINY)
    status, out, _ = command(capsys, data[0], f"--output={tmp_path}/c.npz", "--steps=1", "--batch_size=2")
    assert status == 0 and "of 8 clips of 2 held-out videos, also used for early stopping," in out
    metadata = read_metadata(tmp_path / "c.npz")
    assert metadata["tested_on_held_out"] and metadata["test_accuracy"] == pytest.approx(metadata["held_out_accuracy"])


def test_without_source_groups_to_hold_out_the_test_videos_choose_the_end(
    tmp_path, capsys, caplog, monkeypatch, eagerly
):
    """These are the training videos themselves, which is named."""
    monkeypatch.setitem(classifier_training.SIZES, "small", TINY)
    folder = write_labelled(tmp_path / "two", [0, 1])
    arguments = [f"--data_dir={folder}", f"--output={tmp_path}/c.npz", "--steps=1", "--batch_size=2"]
    status, _, err = command(capsys, *arguments)
    assert status == 2 and "no class has videos of two source groups" in err and "--test_data_dir" in err
    assert not (tmp_path / "c.npz.unfinished").exists()
    assert command(capsys, *arguments, f"--test_data_dir={folder}")[0] == 0
    assert read_metadata(tmp_path / "c.npz")["tested_on_held_out"]
    assert f"--test_data_dir={folder}: contains shards of {folder}; accuracy is too high" in caplog.text


def test_what_has_not_learned_says_so_each_time(data, tmp_path, capsys, caplog, monkeypatch, eagerly):
    monkeypatch.setitem(classifier_training.SIZES, "small", TINY)
    monkeypatch.setattr(ClipEvaluator, "result", lambda examination: Result(0.5, 0.7, 24))
    for _ in range(2):
        caplog.clear()
        status, out, _ = command(capsys, *data, f"--output={tmp_path}/c.npz", "--steps=1", "--batch_size=2")
        assert status == 0 and "50.0% of 24 clips" in out
        (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
        said = warning.getMessage()
        assert said.startswith(f"{tmp_path}/c.npz: it has not learned its classes: 50.0% of 24 clips of 6 test videos")
        assert "its scores are meaningless. Check the videos and their labels" in said


def test_a_classifier_comes_back_as_it_was(tmp_path):
    network = C3D(dataclasses.replace(TINY, num_classes=3), labels=("a", "b", "c"))
    metadata = {"format": 1, "shape": dataclasses.asdict(network.config), "labels": ["a", "b", "c"]}
    save_classifier(network, metadata, tmp_path / "classifier.npz")
    back = load_classifier(tmp_path / "classifier.npz")
    assert back.config == network.config and back.labels == ("a", "b", "c")
    videos = tf.random.stateless_uniform([3, 16, 11, 9, 3], [0, 1], -1, 1)
    for name, value in network(videos).items():
        np.testing.assert_array_equal(back(videos)[name], value, err_msg=name)


def test_every_size_that_can_be_chosen_exists():
    (size,) = (field for field in dataclasses.fields(train_classifier.Command) if field.name == "size")
    assert set(size.metadata["choices"]) == set(classifier_training.SIZES)
    assert classifier_training.SIZES["full"] == C3DConfig(
        112, (64, 128, 256, 256, 512, 512, 512, 512), (4096, 4096), 101
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=c.h5"], "--output=c.h5: valid: a file name that ends in .npz"),
        (["--patience=-1"], "--patience=-1: valid: a whole number of at least 0"),
        (["--steps=0"], "--steps=0: valid: a whole number of at least 1"),
        (["--learning_rate=0"], "--learning_rate=0.0: valid: a number above 0"),
        (["--seed=-1"], "--seed=-1: valid"),
        (["--data_dir=nowhere"], "nowhere: no such folder"),
    ],
    ids=["output", "patience", "steps", "learning rate", "seed", "folder"],
)
def test_wrong_flags_are_one_line(data, tmp_path, capsys, arguments, message):
    status, _, err = command(capsys, *data, f"--output={tmp_path}/c.npz", *arguments)
    assert status in (1, 2)
    assert err.startswith(f"train_classifier: {message}") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_used_are_one_line(data, tmp_path, capsys):
    train, test = data

    def fails(message, *arguments, status=2):
        result = command(capsys, train, test, f"--output={tmp_path}/c.npz", *arguments)
        assert (result[0], result[2]) == (status, f"train_classifier: {message}\n")
        assert not (tmp_path / "c.npz.unfinished").exists()

    folder = write_labelled(tmp_path / "none", [NO_LABEL], names=())
    fails(f"--data_dir={folder}: 0 classes; valid: labelled videos of at least two classes", f"--data_dir={folder}")
    folder = write_labelled(tmp_path / "some", [0, 1, NO_LABEL])
    fails(f"--data_dir={folder}: v2 has no label; valid: 0 to 1", f"--data_dir={folder}")
    fails(f"--test_data_dir={folder}: v2 has no label; valid: 0 to 1", f"--test_data_dir={folder}")
    folder = write_labelled(tmp_path / "more", [0, 2, 1], colours=(*COLOURS, (0, 0, 0)))
    fails(f"--data_dir={folder}: v1 has the label 2; valid: 0 to 1", f"--data_dir={folder}")
    folder = write_labelled(tmp_path / "short", [0, 1], num_frames=15)
    longest = "the longest video has 15 frames; a clip needs 16"
    fails(f"--test_data_dir={folder}: {longest}", f"--test_data_dir={folder}")
    folder = write_labelled(tmp_path / "others", [0, 1], names=("blue", "red"))
    which = train.partition("=")[2]
    fails(f"--test_data_dir={folder}: its classes differ from those of {which}", f"--test_data_dir={folder}")
    folder = write_labelled(tmp_path / "damaged", [0, 1])
    shard = tmp_path / "damaged" / "colours-train-00000-of-00001.tfrecord"
    flip_byte(shard, 1)
    lost = "record 1 cannot be read (in a truncated file, neither can later records)"
    remedy = "copy the data set again, or prepare it again in an empty folder"
    fails(f"{shard}: {lost}; {remedy}", f"--data_dir={folder}", status=1)


def test_a_damaged_frame_ends_the_training_with_its_name(data, tmp_path, capsys, monkeypatch, eagerly):
    monkeypatch.setitem(classifier_training.SIZES, "small", TINY)
    folder = tmp_path / "damaged"
    write_labelled(folder, [0, 1])
    manifest = Manifest.load(folder)
    shard = folder / manifest.shards[0].file
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for label in (0, 1):
            frames = [b"no picture"] * 20
            writer.write(encode_record(frames, video_id=f"v{label}", label=label, height=16, width=16))
    shards = [dataclasses.replace(manifest.shards[0], bytes=shard.stat().st_size)]
    dataclasses.replace(manifest, shards=shards).save(folder)
    status, _, err = command(capsys, f"--data_dir={folder}", data[1], f"--output={tmp_path}/c.npz", *HOW)
    assert status == 1
    assert f"train_classifier: {shard}: record 0 is damaged: frame 0 cannot be decoded" in err
    assert not (tmp_path / "c.npz").exists()


def test_a_loss_that_is_no_number_ends_the_training(tmp_path, eagerly):
    with pytest.raises(UserError, match=r"^step \d+: the loss is nan; lower --learning_rate and remove .*/state$"):
        train_in_steps(tmp_path / "state", 10, learning_rate=1e30)


def test_a_damaged_or_foreign_state_is_named(data, tmp_path, capsys, eagerly):
    train_in_steps(tmp_path / "state", 2)
    file = tmp_path / "state" / "ckpt-2.data-00000-of-00001"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(UserError, match=r"ckpt-2: cannot be read: .*; remove its folder to restart$"):
        train_in_steps(tmp_path / "state", 4)
    foreign = tmp_path / "c.npz.unfinished"
    foreign.mkdir()
    capsys.readouterr()  # of the progress bar
    (foreign / "recipe.json").write_text('{"size": "full"}')
    status, _, err = command(capsys, *data, *HOW, f"--output={tmp_path}/c.npz")
    assert status == 2
    assert err.startswith(
        f"train_classifier: {foreign}: belongs to another training: size full (now small), steps None (now"
    )


def test_files_that_are_no_classifier_are_named(tmp_path):
    path = tmp_path / "classifier.npz"

    def fails(message):
        for read in (load_classifier, read_metadata):
            with pytest.raises(UserError) as error:
                read(path)
            assert str(error.value).startswith(f"{path}: {message}")
            assert "\n" not in str(error.value)

    fails("no such file")
    path.write_bytes(b"PK broken")
    fails("cannot be read as an .npz of tganv2_tf.train_classifier")
    np.savez(path, **C3D(TINY).to_arrays())
    fails("'metadata' is missing; valid: a file written by tganv2_tf.train_classifier")
    np.savez(path, metadata=np.array("no json"))
    fails("'metadata' cannot be read")
    np.savez(path, metadata=np.array('{"format": 2}'))
    fails("its format is 2; this code reads 1")
    whole = {"format": 1, "shape": dataclasses.asdict(TINY), "labels": ["a", "b"]}
    np.savez(path, metadata=np.array(json.dumps(whole)))
    with pytest.raises(UserError, match="'conv1a/W' is missing; expected an array of shape"):
        load_classifier(path)
