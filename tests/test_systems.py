"""Every system through the real commands, at tiny sizes: training, resumption, samples, export, scores, wrong flags.

A new system adds its flags to `TINY`. Numbers of the networks are compared in a file per system.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import TINY_FLAGS
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.test_evaluate import write_classifier
from tests.test_resumption import tensors
from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, TrainConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.pretrained import load_generator, save_generator
from tganv2_tf.runs import Run
from tganv2_tf.sampling.sampler import load
from tganv2_tf.systems import SYSTEMS, config_class

FOUR = "4,4,4,4"
TINY = {
    "tganv2": TINY_FLAGS,
    "vgan": [
        *("--resolution=16", "--num_frames=16", "--z_dim=3"),
        *(f"--generator_channels={FOUR}", f"--discriminator_channels={FOUR}"),
    ],
    "mocogan": [
        *("--resolution=16", "--content_dim=3", "--motion_dim=2", "--generator_width=2"),
        *("--image_discriminator_width=2", "--video_discriminator_width=2", "--frame_step=1"),
    ],
    "progressive_vgan": [
        *("--resolution=16", "--num_frames=16", "--z_dim=3", "--fmap_base=16", "--fmap_max=4", "--objective=swl"),
        *("--batch_sizes=4", "--stable_clips=4", "--fading_clips=4"),
    ],
    "tgan": [
        *("--resolution=16", "--z_dim=3", "--fast_z_dim=2", f"--temporal_channels={FOUR}", "--image_channels=64"),
        *("--discriminator_width=2", "--clip_every_steps=3"),
    ],
}
RUN = ["--global_batch_size=4", "--train_steps=3", "--checkpoint_every_steps=2", "--log_every_steps=1"]
RUN += ["--num_previews=2", "--preview_every_steps=3", "--shuffle_buffer=5", "--deterministic"]
NO_PREVIEWS = "--preview_every_steps=0"
OTHERS = [name for name in SYSTEMS if name != "tganv2"]
# VGAN stands for the others where a run is needed.
others = pytest.mark.parametrize(
    "system", [name if name == "vgan" else pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
)


GRAPHS = ("tganv2_tf.export", "tganv2_tf.generate")  # their functions need graphs


def execute(module, arguments):
    return fork_command(*(() if module in GRAPHS else ("tests.quickly",)), module, *arguments)


def run(module, *arguments):
    """Runs a command and returns what it printed."""
    result = execute(module, arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def fail(module, *arguments):
    """Runs a command that must fail without a traceback, and returns its last line."""
    result = execute(module, arguments)
    assert result.returncode in (1, 2) and "Traceback" not in result.stderr, result.stderr
    return result.stderr.splitlines()[-1]


def train(folder, system, *flags):
    data = ["--data_dir", str(folder / "data")]
    return run("tganv2_tf.train", f"--system={system}", *TINY[system], *RUN, *data, *flags)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with shards and a classifier."""
    folder = tmp_path_factory.mktemp("systems")
    write_data_set(folder / "data", [20, 24, 30, 40], num_shards=2, labels=("a", "b"))
    write_classifier(folder / "classifier.npz")
    return folder


@pytest.fixture
def folder(data, system):
    """Adds a trained run of the system, and a generator with larger weights: NAME_random."""
    if not (data / system).exists():
        train(data, system, f"--model_dir={data}/{system}")
        random = np.random.default_rng(0)
        source = Run.open(data / system)
        generator, step = load_generator(source)
        for variable in generator.trainable_variables:
            variable.assign(random.normal(0, 0.5, variable.shape))
        save_generator(generator, source, step, data / f"{system}_random")
    return data


def test_every_system_is_tested_here():
    assert set(TINY) == set(SYSTEMS)


@others
def test_a_stopped_run_ends_with_the_same_bits(folder, system, tmp_path):
    shutil.copytree(folder / system, tmp_path / "run")
    for file in (tmp_path / "run").glob("checkpoints/ckpt-3.*"):  # as if killed after its second step
        file.unlink()
    assert "Resuming from step 2" in train(folder, system, f"--model_dir={tmp_path}/run", NO_PREVIEWS)
    expected = tensors(f"{folder}/{system}/checkpoints/ckpt-3")
    assert tensors(f"{tmp_path}/run/checkpoints/ckpt-3") == expected
    assert tensors(f"{folder}/{system}/checkpoints/ckpt-2") != expected


@pytest.mark.slow
@others
def test_two_replicas_train_it(folder, system, tmp_path):
    flags = [f"--system={system}", *TINY[system], *RUN, f"--data_dir={folder}/data", f"--model_dir={tmp_path}/run"]
    flags += ["--train_steps=2", NO_PREVIEWS]
    result = fork_command("tests.quickly", "--replicas=2", "tganv2_tf.train", *flags)
    assert result.returncode == 0, result.stderr
    assert str(Run.open(tmp_path / "run").checkpoint).endswith("ckpt-2")


@others
def test_samples_are_those_of_the_export_and_do_not_depend_on_the_batch(folder, system, tmp_path):
    run("tganv2_tf.export", f"--model_dir={folder}/{system}_random", f"--output_dir={tmp_path}/saved")
    trained, exported = load(f"{folder}/{system}_random"), load(f"{tmp_path}/saved/1")
    shape = config_class(system)
    frames = trained.num_frames
    z = trained.latents([3, 7])
    expected = trained.float_videos(z)
    assert expected.shape == (2, frames, 16, 16, 3)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    for sampler in (trained, exported):
        np.testing.assert_array_equal(sampler.latents([7]), z[1:])
        # Rounding depends on the batch size; batch norms that mixed the batch's videos would change tenths.
        np.testing.assert_allclose(sampler.float_videos(z), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(sampler.float_videos(z[1:])[0], expected[1], rtol=0, atol=1e-5)
        videos = sampler.videos([3, 7])
        assert videos.dtype == np.uint8
        chunks = list(sampler.stream(z, chunk=5))
        assert np.abs(np.concatenate(chunks, 1) - videos.astype(int)).max() <= 1
        assert sampler.fixed_length == shape.FIXED_LENGTH
    plain = tf.saved_model.load(f"{tmp_path}/saved/1")  # without code of this project
    served = plain.signatures["generate"](
        seed=tf.constant(3, tf.int64), num_videos=tf.constant(2), num_frames=tf.constant(frames)
    )
    assert np.abs(served["videos"].numpy().astype(int)[0] - trained.videos([3])[0]).max() <= 1


@others
def test_generate_walks_and_files(folder, system, tmp_path):
    model = f"--model_dir={folder}/{system}"
    run("tganv2_tf.generate", model, "--seeds=0-3", f"--output={tmp_path}/grid.png")
    flags = ["--layout=walk", "--interpolate=spherical", "--interpolation_steps=3", f"--output={tmp_path}/walk.npz"]
    run("tganv2_tf.generate", model, "--seeds=1,2", *flags)
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as arrays:
        assert arrays["videos"].shape == (1, 4, 16, 16, 3)
    if config_class(system).FIXED_LENGTH:
        line = fail("tganv2_tf.generate", model, "--num_frames=17", f"--output={tmp_path}/x.gif")
        frames = load(f"{folder}/{system}").num_frames
        assert line.startswith(f"generate: --num_frames=17: this generator renders videos of {frames} frames only")


@others
def test_scores_are_of_the_first_16_frames(folder, system, tmp_path):
    flags = ["--num_samples=6", "--repetitions=1", "--real_passes=3", "--eval_batch_size=3", "--cache_dir="]
    flags += [f"--data_dir={folder}/data", f"--classifier={folder}/classifier.npz", f"--output={tmp_path}/scores.json"]
    run("tganv2_tf.evaluate", f"--model_dir={folder}/{system}", *flags)
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["generated"]["config"]["system"] == system
    assert np.isfinite(report["scores"]["inception_score"]["mean"])
    if config_class(system).FIXED_LENGTH:
        line = fail("tganv2_tf.evaluate", f"--model_dir={folder}/{system}", *flags, "--first_frame=17")
        assert "frames only; the scores need 33" in line


@others
def test_a_projection_finds_a_latent(folder, system, tmp_path):
    run("tganv2_tf.generate", f"--model_dir={folder}/{system}", "--seeds=5", f"--output={tmp_path}/clip/")
    flags = ["--candidates=4", "--restarts=2", "--steps=2", "--frame_step=1", f"--output={tmp_path}/p.gif"]
    run("tganv2_tf.project", f"--model_dir={folder}/{system}", f"--video={tmp_path}/clip", *flags)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert arrays["z"].shape == (load(f"{folder}/{system}").z_dim,)


@others
def test_what_is_printed_before_a_run(system):
    text = run("tganv2_tf.train", f"--system={system}", *TINY[system], "--global_batch_size=4", "--dry_run")
    assert f"--system={system}" in text and "generator" in text
    text = run("tganv2_tf.doctor", f"--system={system}", *TINY[system], "--global_batch_size=4")
    assert "about" in text and "per step" in text


@pytest.mark.parametrize("system", OTHERS)
def test_flags_of_other_systems_are_refused_by_name(system, tmp_path):
    options = MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig
    with pytest.raises(ConfigError, match=f"lstm_channels is a setting of --system=tganv2; {system} does not"):
        cli.parse([f"--system={system}", "--lstm_channels=4"], *options)
    for flag in ("--recompute", "--diffaugment=color", "--n_dis=2", "--mixed_precision=mixed_float16", "--loss=hinge"):
        name = flag.partition("=")[0]
        with pytest.raises(ConfigError, match=f"{name}=.*: valid: with --system=tganv2 only, not {system}"):
            Config(*cli.parse([f"--system={system}", flag], *options))


@others
def test_runs_of_another_system_are_not_resumed(folder, system):
    model_dir = f"--model_dir={folder}/{system}"
    line = fail("tganv2_tf.train", *TINY["tganv2"], *RUN, f"--data_dir={folder}/data", model_dir)
    assert f"contains a run of --system={system}, not tganv2" in line


@pytest.mark.parametrize("system", ["vgan"])
def test_a_run_of_another_system_initialises_none(folder, system, tmp_path):
    new = [*TINY["tganv2"], *RUN, f"--data_dir={folder}/data", f"--model_dir={tmp_path}/new"]
    line = fail("tganv2_tf.train", *new, f"--init_from={folder}/{system}")
    assert f"a run of --system={system}, not tganv2" in line


@others
def test_the_config_of_a_run_names_its_system(folder, system):
    config = Run.open(folder / system).config
    assert config.system == system and isinstance(config.model, config_class(system))
    assert Config.from_json(config.to_json()) == config
    text = config.to_json().replace(f'"system": "{system}"', '"system": "other"')
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: unknown system other; valid: tganv2, "):
        Config.from_json(text)


def test_a_run_without_a_system_is_tganv2s():
    config = Config()
    text = json.dumps({name: value for name, value in config.as_dict().items() if name != "system"})
    assert Config.from_json(text) == config and config.system == "tganv2"


def test_defaults_of_a_system_hold_unless_a_flag_is_set():
    options = MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig
    model, data, train, _ = cli.parse(["--system=vgan", "--adam_beta1=0.7"], *options)
    assert (train.adam_beta1, train.adam_beta2, train.ema_decay, data.flip) == (0.7, 0.999, 0.0, False)
    assert dataclasses.replace(model) == config_class("vgan")()
    assert cli.parse([], *options)[2] == TrainConfig()


def test_a_wrong_system_is_one_line():
    line = fail("tganv2_tf.train", "--system=gan")
    assert "--system=gan" in line and all(name in line for name in SYSTEMS)
