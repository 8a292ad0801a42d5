"""The authors' snapshots: round trip, invalid files, and conversion to a run."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.authors_rounding import round_as_the_authors
from tests.conftest import TINY_MODEL, run_command, tiny_config
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.test_evaluate import write_classifier
from tganv2_tf import import_chainer
from tganv2_tf.config import ModelConfig
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.interop import chainer
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import CONFIG_FILE, Run, latest_checkpoint, record_config

DATA = pathlib.Path(__file__).parent / "data"


def tiny(**changes):
    return ModelConfig(**{**TINY_MODEL, "spectral_norm": False, **changes})


def shaken(network):
    """A network with all variables changed from their initial values, including running statistics."""
    rng = np.random.default_rng(0)
    network.set_weights(
        [value + rng.uniform(0, 0.1, value.shape).astype(np.float32) for value in network.get_weights()]
    )
    return network


@pytest.mark.parametrize("name", ["public", "public_batch"])
def test_snapshots_come_back_as_they_were(tmp_path, name):
    for kind, load, save in (
        ("gen", chainer.load_generator, chainer.save_generator),
        ("dis", chainer.load_discriminator, chainer.save_discriminator),
    ):
        path = DATA / f"{name}_{kind}.npz"
        save(load(path), tmp_path / "again.npz")
        theirs, ours = chainer.read_snapshot(path), chainer.read_snapshot(tmp_path / "again.npz")
        assert set(ours) == set(theirs)
        for key, array in theirs.items():
            assert ours[key].dtype == array.dtype, key
            np.testing.assert_array_equal(ours[key], array, err_msg=key)


def test_a_generators_shape_is_read_off_the_weights():
    config = chainer.load_generator(DATA / "public_gen.npz").config
    assert (config.resolution, config.z_dim, config.lstm_channels, config.lstm_layers) == (192, 8, 8, 1)
    assert config.up_channels == (32, 16, 8, 4, 2, 2)
    assert (config.num_frames, config.frame_strides, config.batch_strides) == (16, (2, 2, 2), (1, 1, 1))
    assert not config.spectral_norm and config.grow_length_one_axes
    given = chainer.load_generator(DATA / "public_gen.npz", num_frames=32, frame_strides=(4, 2, 2)).config
    assert (given.num_frames, given.frame_strides) == (32, (4, 2, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"lstm_layers": 3},
        {"up_channels": (5, 6, 7, 8), "lstm_channels": 3, "z_dim": 9, "resolution": 32},
        {"frame_strides": (), "batch_strides": (), "up_channels": (4, 5, 6), "resolution": 24},
        {"frame_strides": (2, 2), "batch_strides": (1, 1), "up_channels": (4, 5, 6, 7, 8), "resolution": 32},
    ],
    ids=["several LSTMs", "other widths", "one level", "three levels"],
)
def test_any_generator_goes_there_and_back(tmp_path, changes):
    generator = shaken(Generator(tiny(**changes)))
    path = tmp_path / "there" / "gen_iter_1"  # no suffix: any name may be a snapshot of the authors'
    chainer.save_generator(generator, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    config = generator.config
    back = chainer.load_generator(path, 4, config.frame_strides, config.batch_strides)
    same = {"discriminator_channels": config.discriminator_channels, "grow_length_one_axes": False}
    assert dataclasses.replace(back.config, **same) == config
    z = sample_latents(2, config.z_dim, tf.constant([0, 1]))
    np.testing.assert_array_equal(back(z), generator(z))


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("channels", [(3,), (4, 8, 5)])
def test_any_discriminator_goes_there_and_back(tmp_path, levels, channels):
    strides = (1,) * (levels - 1)
    changes = {"frame_strides": strides, "batch_strides": strides, "resolution": 2 ** (levels + 2)}
    discriminator = shaken(
        Discriminator(tiny(up_channels=(4,) * (levels + 2), discriminator_channels=channels, **changes))
    )
    chainer.save_discriminator(discriminator, tmp_path / "d.npz")
    back = chainer.load_discriminator(tmp_path / "d.npz")
    assert back.config.discriminator_channels == channels
    videos = [tf.random.stateless_uniform([2, 4, 8, 8, 3], [0, level], -1, 1) for level in range(levels)]
    for ours, theirs in zip(back(videos), discriminator(videos)):
        np.testing.assert_array_equal(ours, theirs)


def test_spectral_norm_is_written_into_the_kernels(tmp_path):
    discriminator = Discriminator(tiny(spectral_norm=True))
    for _ in range(5):
        discriminator.update_singular_vectors()
    chainer.save_discriminator(discriminator, tmp_path / "d.npz")
    back = chainer.load_discriminator(tmp_path / "d.npz")
    videos = [tf.random.stateless_uniform([2, 4, 8, 8, 3], [0, level], -1, 1) for level in range(2)]
    for ours, theirs in zip(back(videos), discriminator(videos)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def damaged(tmp_path, source, **changes):
    """Copies a snapshot with changes; keys with None are removed."""
    arrays = {**chainer.read_snapshot(DATA / source), **{key.replace("__", "/"): v for key, v in changes.items()}}
    np.savez(tmp_path / "damaged.npz", **{key: value for key, value in arrays.items() if value is not None})
    return tmp_path / "damaged.npz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block3__b1__avg_var": None}, "'block3/b1/avg_var' is missing"),
        ({"block3__c_sc__W": None}, "'block3/c_sc/W' is missing"),
        ({"fc__W": None}, "'fc/W' is missing"),
        ({"decoder0__w_hifoc__W": None}, "'decoder0/w_hifoc/W' is missing"),
        ({"extra__W": np.zeros(3, np.float32)}, "'extra/W'.*not a weight"),
        ({"decoder1__w_hifoc__W": np.zeros([32, 8, 3, 3], np.float32)}, "'decoder1/w_xifoc/W' is missing"),
        ({"c3__b": np.zeros(4, np.float32)}, r"'c3/b' has shape \[4\]; expected \[3\]"),
        ({"fc__W": np.zeros(72, np.float32)}, r"'fc/W' has shape \[72\]; expected 2 axes"),
        ({"fc__W": np.zeros([40, 8], np.float32)}, "'fc/W' has 40 rows.*8 channels"),
        ({"c3__b": np.zeros(3, complex)}, "'c3/b' has dtype complex128"),
        ({"c3__b": np.array([None] * 3)}, "at 'c3/b'.*Object arrays"),
    ],
)
def test_what_is_wrong_with_a_generators_file_is_named(tmp_path, changes, message):
    path = damaged(tmp_path, "public_gen.npz", **changes)
    with pytest.raises(UserError, match=message) as raised:
        chainer.load_generator(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level2__block3__c1__W": None}, "'level2/block3/c1/W' is missing"),
        ({"level0__block2__c_sc__W": None}, "'level0/block2/c_sc/W' is missing"),
        ({"level1__l6__W": np.zeros([1, 7], np.float32)}, r"'level1/l6/W' has shape \[1, 7\]; expected \[1, 32\]"),
        ({"level1__l7__W": np.zeros([1, 7], np.float32)}, "'level1/l7/W'.*not a weight"),
    ],
)
def test_what_is_wrong_with_a_discriminators_file_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        chainer.load_discriminator(damaged(tmp_path, "public_dis.npz", **changes))


def test_files_that_are_none_of_theirs(tmp_path):
    text, array, half = (tmp_path / name for name in ("text.npz", "array.npy", "half.npz"))
    text.write_text("weights")
    np.save(array, np.zeros(3))
    half.write_bytes((DATA / "public_gen.npz").read_bytes()[:-500])
    for path in (text, array, half, tmp_path / "none.npz", tmp_path):
        for load in (chainer.load_generator, chainer.load_discriminator):
            with pytest.raises(UserError, match=path.name) as raised:
                load(path)
            assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="a discriminator's snapshot"):
        chainer.load_generator(DATA / "public_dis.npz")
    with pytest.raises(UserError, match="a generator's snapshot"):
        chainer.load_discriminator(DATA / "public_gen.npz")
    with pytest.raises(ConfigError, match="num_frames=15"):
        chainer.load_generator(DATA / "public_gen.npz", num_frames=15)


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "g.npz"
    path.write_text("old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        chainer.save_generator(Generator(tiny()), path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_authors_rounding_changes_rounding_alone(tmp_path):
    chainer.save_generator(shaken(Generator(tiny())), tmp_path / "g.npz")
    z = sample_latents(4, 4, tf.constant([0, 1]))
    loaded = [chainer.load_generator(tmp_path / "g.npz", 4, (2,), (2,)) for _ in range(2)]
    round_as_the_authors(loaded[0])
    for sums, exact in zip(*(generator.pyramid(z, frame_offsets=[1]) for generator in loaded)):
        np.testing.assert_allclose(sums, exact, atol=1e-4)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """The two files of a tiny network, and shards to train on."""
    folder = tmp_path_factory.mktemp("snapshots")
    tf.keras.utils.set_random_seed(0)
    chainer.save_generator(shaken(Generator(tiny())), folder / "g.npz")
    # Not perturbed: it would reject its fakes so surely that gradients vanish.
    chainer.save_discriminator(Discriminator(tiny(discriminator_channels=(4,))), folder / "d.npz")
    write_data_set(folder / "data", [6, 8, 9])
    return folder


def import_run(snapshots, model_dir, *flags, run=fork_command):
    shape = ["--num_frames=4", "--frame_strides=2", "--batch_strides=2"]
    return run(
        "tganv2_tf.import_chainer", f"--generator={snapshots / 'g.npz'}", f"--model_dir={model_dir}", *shape, *flags
    )


@pytest.mark.slow
def test_a_snapshot_becomes_a_run_that_every_command_accepts(snapshots, tmp_path):
    run = tmp_path / "run"
    result = import_run(snapshots, run, f"--discriminator={snapshots / 'd.npz'}", "--step=3", run=run_command)
    assert result.returncode == 0, result.stderr
    assert "new ones" not in result.stderr
    said = result.stdout
    config, (generator, step) = Run.open(run).config, load_generator(Run.open(run))
    assert step == 3
    assert (config.train.score, config.train.r1_weight, config.train.ema_decay) == ("separate", 16.0, 0.0)
    assert (config.data.normalization, config.model.spectral_norm) == ("official", False)
    assert config.model.grow_length_one_axes and config.model.discriminator_channels == (4,)
    z = sample_latents(2, 4, tf.constant([0, 1]))
    original = chainer.load_generator(snapshots / "g.npz", 4, (2,), (2,))
    np.testing.assert_array_equal(generator(z), original(z))

    result = fork_command("tganv2_tf.generate", f"--model_dir={run}", "--seeds=0-1", f"--output={tmp_path}/a.gif")
    assert result.returncode == 0, result.stderr
    result = fork_command("tganv2_tf.export", f"--model_dir={run}", f"--output_dir={tmp_path}/saved")
    assert result.returncode == 0, result.stderr
    write_classifier(tmp_path / "classifier.npz")
    scores = ["--scores=inception_score", "--num_samples=8", "--repetitions=1", f"--output={tmp_path}/scores.json"]
    classifier = f"--classifier={tmp_path}/classifier.npz"
    result = fork_command("tganv2_tf.evaluate", f"--model_dir={run}", classifier, *scores)
    assert result.returncode == 0, result.stderr
    assert '"normalization": "official"' in (tmp_path / "scores.json").read_text()

    # It prints the flags for resuming; resuming works, with both networks and the step restored.
    flags = next(line for line in said.splitlines() if line.startswith("python -m tganv2_tf.train")).split()[3:]
    flags = [flag.replace("DATA_DIR", str(snapshots / "data")) for flag in flags]
    changed = ["--global_batch_size=4", "--train_steps=4", "--log_every_steps=1", "--preview_every_steps=4"]
    changed += ["--checkpoint_every_steps=4", "--num_previews=1"]
    result = fork_command("tests.quickly", "tganv2_tf.train", *flags, *changed)
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 3" in result.stderr
    trained, step = load_generator(Run.open(str(run)))
    assert step == 4
    moved = [np.abs(a - b).max() for a, b in zip(trained.get_weights(), original.get_weights())]
    rates = config.train.generator_learning_rate
    trainable = [np.abs(a - b).max() for a, b in zip(trained.trainable_variables, original.trainable_variables)]
    assert 0 < max(trainable) < 10 * rates < max(moved), "one step away; running statistics move by more"


def test_the_discriminators_weights_are_in_the_run(snapshots, tmp_path):
    assert import_run(snapshots, tmp_path, f"--discriminator={snapshots / 'd.npz'}").returncode == 0
    back = Discriminator(Run.open(str(tmp_path)).config.model)
    path = latest_checkpoint(tmp_path)
    tf.train.Checkpoint(discriminator=back).read(path).assert_existing_objects_matched().expect_partial()
    for ours, theirs in zip(back.get_weights(), chainer.load_discriminator(snapshots / "d.npz").get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_without_a_discriminator_it_starts_fresh_and_says_so(snapshots, tmp_path):
    result = import_run(snapshots, tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "No --discriminator: new ones, of 8,16,32,64,128 channels" in result.stderr
    assert Run.open(str(tmp_path / "run")).config.model.discriminator_channels == (8, 16, 32, 64, 128)


def test_a_folder_that_holds_a_run_is_left_alone(snapshots, tmp_path):
    config = tiny_config(model_dir=str(tmp_path))
    record_config(config)
    result = import_run(snapshots, tmp_path)
    assert result.returncode == 2
    assert "already contains a run" in result.stderr and "Traceback" not in result.stderr
    assert Run.open(str(tmp_path)).config == config
    assert [file.name for file in tmp_path.iterdir()] == [CONFIG_FILE]


def test_a_command_with_networks_that_do_not_fit(tmp_path):
    chainer.save_generator(Generator(tiny()), tmp_path / "g.npz")
    command = import_chainer.Command(str(tmp_path / "g.npz"), str(tmp_path / "run"), str(DATA / "public_dis.npz"))
    with pytest.raises(UserError, match=r"public_dis.npz: 4 levels, and .*g.npz has 2"):
        import_chainer.main(command)
    assert not (tmp_path / "run").exists()
