"""VGAN against the numbers of the authors' code (tests/data/baselines/vgan_public.npz; Torch7)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.golden_arrays import Golden, channels_first, from_torch, to_torch
from tganv2_tf.config import Config, DataConfig, TrainConfig
from tganv2_tf.systems.vgan.config import ModelConfig
from tganv2_tf.systems.vgan.model import Model

GOLDEN = Golden("vgan_public.npz")
CONFIG = ModelConfig(z_dim=10, generator_channels=(16, 12, 8, 6), discriminator_channels=(6, 8, 12, 16))
TRAIN = TrainConfig(
    generator_learning_rate=2e-4,
    discriminator_learning_rate=2e-4,
    learning_rate_decay="none",
    adam_beta1=0.5,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    ema_decay=0.0,
)
# Biases before a batch norm: their gradients are 0, and the file has rounding there.
IRRELEVANT = {
    *(f"g/{stream}/conv{i}/bias" for stream in ("video", "static") for i in range(1, 5)),
    *(f"d/conv{i}/bias" for i in range(2, 5)),
}


def variables_of(model):
    """Returns the variables by name in the golden file."""
    generator, discriminator = model.generator, model.discriminator
    kernels, norms = {}, {}
    found: dict[str, tf.Variable] = {}
    for name, stream in (("video", generator.foreground), ("static", generator.background)):
        for i, (convolution, norm) in enumerate(zip(stream.deconvolutions, stream.norms), start=1):
            kernels[f"g/{name}/conv{i}"], norms[f"g/{name}/bn{i}"] = convolution, norm
    kernels["g/video/out"], kernels["g/video/mask"] = generator.to_colours, generator.to_mask
    kernels["g/static/conv5"], kernels["d/conv5"] = generator.to_background, discriminator.to_logits
    for i, convolution in enumerate(discriminator.convolutions, start=1):
        kernels[f"d/conv{i}"] = convolution
    for i, norm in enumerate(discriminator.norms, start=2):
        norms[f"d/bn{i}"] = norm
    for name, layer in kernels.items():
        found |= {f"{name}/weight": layer.kernel, f"{name}/bias": layer.bias}
    for name, layer in norms.items():
        found |= {f"{name}/weight": layer.gamma, f"{name}/bias": layer.beta}
        found |= {f"{name}/running_mean": layer.moving_mean, f"{name}/running_var": layer.moving_variance}
    return found


def torch_layout(value):
    value = np.asarray(value)
    return to_torch(value) if value.ndim > 1 else value


@pytest.fixture
def model():
    config = Config(CONFIG, DataConfig(), TRAIN)
    model = Model.create(config)
    model.compile(*Model.make_optimizers(config))
    variables = variables_of(model)
    assert set(variables) == GOLDEN.names("before")
    for name, variable in variables.items():
        value = GOLDEN[f"before/{name}"]
        variable.assign(from_torch(value) if value.ndim > 1 else value)
    return model


def real():
    coarse = np.moveaxis(GOLDEN["in/real_coarse"], 1, -1)
    return tf.constant(coarse.repeat(4, 1).repeat(8, 2).repeat(8, 3))


def check_gradients(model, prefix, network, gradients, names):
    by_variable = {v.ref(): g for v, g in zip(model.networks[network].trainable_variables, gradients)}
    variables = variables_of(model)
    for name in names - IRRELEVANT:
        GOLDEN.check(f"{prefix}/{name}", torch_layout(by_variable[variables[name].ref()]))


def check_videos(model, prefix, z, training):
    foreground, mask, background = model.generator.parts(z, training)
    video = model.generator(z, training=training)
    for name, values in (("video", video), ("foreground", foreground), ("mask", mask)):
        GOLDEN.check(f"{prefix}/{name}_every_4th_of_T_H_W", channels_first(values)[:, :, ::4, ::4, ::4])
    GOLDEN.check(f"{prefix}/background", channels_first(background[:, tf.newaxis])[:, :, 0])
    GOLDEN.check(f"{prefix}/video_of_sample_0_frames_0_31", channels_first(video)[0][:, [0, 31]])


def test_outputs_with_running_statistics(model):
    check_videos(model, "evaluate", tf.constant(GOLDEN["evaluate/z"]), training=False)
    GOLDEN.check("evaluate/d_of_real", model.discriminator(real()))


def test_losses_and_gradients_of_both_networks(model):
    z = tf.constant(GOLDEN["train/z"])
    check_videos(model, "train", z, training=True)
    step = model.forward(real(), z)
    GOLDEN.check("train/d_of_fake", step.activations[-1][:, 0, 0, 0])
    GOLDEN.check("loss/err_g", step.losses["generator_loss"][None])
    GOLDEN.check("loss/mask_penalty", step.losses["mask_penalty"][None])
    GOLDEN.check("loss/err_d_as_printed", step.losses["discriminator_loss"][None] / 2)
    check_gradients(model, "grad", "discriminator", model.discriminator_gradients(step), GOLDEN.names("grad"))
    check_gradients(model, "grad_exact", "generator", model.generator_gradients(step), GOLDEN.names("grad_exact"))
    # With unchanged weights, the gradient through activations and weights is the exact one.
    same = model.generator_gradients_through_updated_weights(step)
    for actual, expected in zip(same, model.generator_gradients(step)):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-5)


def test_a_whole_step(model, monkeypatch):
    monkeypatch.setattr("tganv2_tf.systems.vgan.model.sample_latents", lambda *_: tf.constant(GOLDEN["train/z"]))
    applied = {}
    apply = model.apply_gradients
    monkeypatch.setattr(
        model, "apply_gradients", lambda name, values: (applied.update({name: values}), apply(name, values))
    )
    model.train_step(([real()[tf.newaxis]], tf.zeros([1, 2], tf.int64), tf.zeros([1], tf.int64)))
    check_gradients(model, "grad_as_main", "generator", applied["generator"], GOLDEN.names("grad_as_main"))
    for name, variable in variables_of(model).items():
        if name not in IRRELEVANT:
            GOLDEN.check(f"after/{name}", torch_layout(variable), step=2e-4)


def test_gradients_can_pass_through_the_weights_before_their_update(model, monkeypatch):
    shape = dataclasses.replace(CONFIG, gradients_through_updated_weights=False)
    model.config = dataclasses.replace(model.config, model=shape)
    monkeypatch.setattr("tganv2_tf.systems.vgan.model.sample_latents", lambda *_: tf.constant(GOLDEN["train/z"]))
    applied = {}
    monkeypatch.setattr(model, "apply_gradients", lambda name, values: applied.update({name: values}))
    model.update([real()[tf.newaxis]], tf.zeros([1, 2], tf.int64))
    check_gradients(model, "grad_exact", "generator", applied["generator"], GOLDEN.names("grad_exact"))
    assert list(applied) == ["discriminator", "generator"]


def test_initial_weights():
    tf.keras.utils.set_random_seed(0)
    model = Model.create(Config(CONFIG, DataConfig(), TRAIN))
    variables = variables_of(model)
    for name in GOLDEN.names("init"):
        mean, deviation = GOLDEN[f"init/{name}"]
        values = variables[name.replace("weight_mean_std", "weight")].numpy()
        error = 5 * deviation / np.sqrt(values.size)  # of both draws
        assert abs(values.mean() - mean) < error and abs(values.std() - deviation) < error, name
