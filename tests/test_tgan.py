"""TGAN against the numbers of the authors' code (tests/data/baselines/tgan_public.npz; Chainer 7.8.1)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.golden_arrays import Golden, channels_first
from tganv2_tf.config import Config, DataConfig, TrainConfig
from tganv2_tf.interop import tgan as interop
from tganv2_tf.sampling.sampler import load
from tganv2_tf.systems.tgan.config import ModelConfig
from tganv2_tf.systems.tgan.model import Model, clip_singular_values

GOLDEN = Golden("tgan_public.npz")
CONFIG = ModelConfig(
    resolution=32,
    z_dim=12,
    fast_z_dim=9,
    temporal_channels=(16, 12, 10, 10),
    image_channels=32,
    discriminator_width=4,
    clip_every_steps=1,
)
# The gradients of biases before a batch norm are 0; the file has rounding there.
IRRELEVANT = {*(f"fsgen/dc{i}/b" for i in range(4)), *(f"vdis/c{i}/b" for i in (1, 2, 3))}
FRAMES = [0, 5, 10, 15]


def make_model():
    config = Config(
        CONFIG,
        DataConfig(),
        TrainConfig(
            generator_learning_rate=5e-5, discriminator_learning_rate=5e-5, learning_rate_decay="none", ema_decay=0.0
        ),
    )
    tf.keras.utils.set_random_seed(0)
    model = Model.create(config)
    model.compile(*Model.make_optimizers(config))
    return model


def weights_of(model):
    """Returns all weights by name in the golden file, without the group."""
    networks = {
        "fsgen": interop.temporal_generator_weights(model.generator),
        "vgen": interop.image_generator_weights(model.generator),
        "vdis": interop.discriminator_weights(model.discriminator),
    }
    return {f"{network}/{name}": weight for network, weights in networks.items() for name, weight in weights.items()}


@pytest.fixture
def model():
    model = make_model()
    weights = weights_of(model)
    assert set(weights) == {name for name in GOLDEN.names("before") if not name.startswith("vdis/bn0/")}
    for name, weight in weights.items():
        weight.variable.assign(weight.from_chainer(GOLDEN[f"before/{name}"]))
        np.testing.assert_array_equal(weight.to_chainer(weight.variable.numpy()), GOLDEN[f"before/{name}"])
    return model


def reals():
    return tf.constant((GOLDEN["in/real_u8_NTCHW"].transpose(0, 1, 3, 4, 2).astype(np.float32) - 128) / 128)


def frames(video):
    return channels_first(video)[:, :, FRAMES]


def test_outputs_with_running_statistics(model):
    z = tf.constant(GOLDEN["in/z_slow"])
    fast = model.generator.temporal(z)
    GOLDEN.check("test/z_fast", fast.numpy().transpose(0, 2, 1))
    video = model.generator(z)
    GOLDEN.check("test/video_frames_0_5_10_15_NCTHW", frames(video))
    GOLDEN.check("test/dis_of_real", np.reshape(model.discriminator(reals()), (2, 1, 1, 1)))
    GOLDEN.check("test/dis_of_test_video", np.reshape(model.discriminator(video), (2, 1, 1, 1)))


def test_losses_and_gradients(model):
    results, gradients = model.losses_and_gradients(reals(), tf.constant(GOLDEN["in/z_slow"]))
    GOLDEN.check("loss/loss_gen", results["generator_loss"])
    GOLDEN.check("loss/loss_dis", results["discriminator_loss"])
    by_variable = {
        variable.ref(): gradient
        for network, values in gradients.items()
        for variable, gradient in zip(model.networks[network].trainable_variables, values)
    }
    compared = 0
    for name, weight in weights_of(model).items():
        if name in GOLDEN.names("grad") and name not in IRRELEVANT:
            GOLDEN.check(f"grad/{name}", weight.to_chainer(by_variable[weight.variable.ref()].numpy()))
            compared += 1
    assert compared == len(GOLDEN.names("grad") - IRRELEVANT - {"vdis/bn0/gamma"})  # unused
    assert not by_variable.keys() - {weight.variable.ref() for weight in weights_of(model).values()}


def test_a_whole_step(model, monkeypatch):
    z = tf.constant(GOLDEN["in/z_slow"])
    monkeypatch.setattr("tganv2_tf.systems.tgan.model.sample_latents", lambda *_: z)
    model.train_step(([reals()[tf.newaxis]], tf.zeros([1, 2], tf.int64), tf.zeros([1], tf.int64)))
    for name, weight in weights_of(model).items():
        if name not in IRRELEVANT:
            GOLDEN.check(f"after/{name}", weight.to_chainer(weight.variable.numpy()), step=10 * 5e-5)
    assert int(model.step) == 1


@pytest.fixture
def snapshots(tmp_path):
    """The golden weights as the authors' three files, with the names that they give to them."""
    files = {"fsgen": "gen_iter_7.npz", "vgen": "vgen_iter_7.npz", "vdis": "vdis_iter_7.npz"}
    for network, file in files.items():
        arrays = {name: GOLDEN[f"before/{network}/{name}"] for name in GOLDEN.names(f"before/{network}")}
        norms = {name.rpartition("/")[0] for name in arrays if name.endswith("avg_mean")}
        np.savez(tmp_path / file, **arrays, **{f"{norm}/N": np.array(0) for norm in norms})
    return tmp_path


def test_snapshots_become_a_run_that_generates_and_resumes(snapshots, tmp_path):
    flags = [f"--temporal_generator={snapshots}/gen_iter_7.npz", f"--generator={snapshots}/vgen_iter_7.npz"]
    command = ["tganv2_tf.import_chainer", *flags, f"--discriminator={snapshots}/vdis_iter_7.npz", "--step=7"]
    result = fork_command(*command, f"--model_dir={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    sampler = load(f"{tmp_path}/run")
    video = sampler.float_videos(GOLDEN["in/z_slow"])
    GOLDEN.check("test/video_frames_0_5_10_15_NCTHW", frames(video))
    resume = result.stdout.splitlines()[-1].replace("DATA_DIR", f"{tmp_path}/data").split()
    assert "--system=tgan" in resume and "--normalization=official" in resume
    write_data_set(tmp_path / "data", [20, 24, 30], height=32, width=32)
    resume += ["--train_steps=8", "--global_batch_size=2", "--preview_every_steps=0"]
    result = fork_command("tests.quickly", *resume[2:])
    assert result.returncode == 0 and "Resuming from step 7" in result.stderr, result.stderr


def test_what_is_wrong_with_snapshots_is_one_line(snapshots, tmp_path):
    temporal, image = f"--temporal_generator={snapshots}/gen_iter_7.npz", f"--generator={snapshots}/vgen_iter_7.npz"
    swapped = [temporal.replace("gen_", "vgen_"), image.replace("vgen_", "gen_")]
    for flags, message in (
        (swapped, "gen_iter_7.npz: 'dc1/W' has shape [16, 12, 4]; expected 4 axes"),
        ([temporal, f"--generator={snapshots}/none.npz"], "none.npz"),
        ([temporal, image, "--num_frames=32"], "--num_frames=32: valid: 16 with --temporal_generator"),
        ([temporal, image, "--frame_strides=2"], "--frame_strides=2: valid: none with --temporal_generator"),
    ):
        result = fork_command("tganv2_tf.import_chainer", *flags, f"--model_dir={tmp_path}/run")
        assert result.returncode in (1, 2) and message in result.stderr.splitlines()[-1], result.stderr
        assert not (tmp_path / "run").exists()


def test_singular_values_above_1_become_1_and_others_stay():
    random = np.random.default_rng(0)
    left, _ = np.linalg.qr(random.normal(size=(24, 5)))
    right, _ = np.linalg.qr(random.normal(size=(5, 5)))
    values = np.array([3.0, 1.5, 1.0, 0.4, 0.01])
    kernel = ((left * values) @ right).astype(np.float32).reshape(2, 3, 4, 5)
    clipped = clip_singular_values(tf.constant(kernel)).numpy()
    expected = ((left * np.minimum(values, 1)) @ right).reshape(2, 3, 4, 5)
    np.testing.assert_allclose(clipped, expected, atol=1e-6)
    small = tf.constant(0.2 * kernel)
    np.testing.assert_array_equal(clip_singular_values(small), small)


def test_clipping_only_every_given_number_of_steps(model):
    model.config = dataclasses.replace(model.config, model=dataclasses.replace(CONFIG, clip_every_steps=3))
    kernel = model.discriminator.convolutions[1].kernel
    before = kernel.numpy()
    assert np.linalg.svd(before.reshape(-1, before.shape[-1]), compute_uv=False)[0] > 1
    for step in (0, 1):
        model.step.assign(step)
        tf.distribute.get_replica_context().merge_call(model._clip)
        np.testing.assert_array_equal(kernel, before)
    model.step.assign(2)
    tf.distribute.get_replica_context().merge_call(model._clip)
    assert np.linalg.svd(kernel.numpy().reshape(-1, before.shape[-1]), compute_uv=False)[0] < 1 + 1e-5
