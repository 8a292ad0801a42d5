"""MoCoGAN against the numbers of the authors' code (tests/data/baselines/mocogan_public.npz; PyTorch)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.golden_arrays import Golden, channels_first, from_torch, to_torch
from tganv2_tf.config import Config, DataConfig, TrainConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.models.latents import latents_from_seeds, sample_latents, size_of
from tganv2_tf.models.optimizers import Adam, PyTorchAdam
from tganv2_tf.sampling.sampler import Sampler
from tganv2_tf.serving.signatures import ServedGenerator
from tganv2_tf.systems.mocogan import model as mocogan
from tganv2_tf.systems.mocogan import networks
from tganv2_tf.systems.mocogan.config import ModelConfig
from tganv2_tf.systems.mocogan.model import Draws, FrameDraws, Model, RealData
from tganv2_tf.systems.mocogan.networks import GRU, Discriminator, Generator
from tganv2_tf.training.cost import step_cost

GOLDEN = Golden("mocogan_public.npz")
CONFIG = ModelConfig(
    content_dim=9,
    motion_dim=5,
    conditional=True,
    num_classes=4,
    generator_width=4,
    image_discriminator_width=4,
    video_discriminator_width=3,
    noise_sigma=0.0,
)
TRAIN = TrainConfig(
    global_batch_size=5,
    generator_learning_rate=2e-4,
    discriminator_learning_rate=2e-4,
    learning_rate_decay="none",
    adam_beta1=0.5,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    ema_decay=0.0,
)
SMALL = dataclasses.replace(
    CONFIG, resolution=16, content_dim=3, motion_dim=2, conditional=False, num_classes=0, generator_width=2
)
OTHERS = {
    "ImageDiscriminator": ("images", False),
    "PatchImageDiscriminator": ("images", True),
    "VideoDiscriminator": ("videos", False),
    "PatchVideoDiscriminator": ("videos", True),
}


def numbered(prefix, convolutions, norms, strides):
    """Returns the variables of layers that the file numbers in steps, the first convolution without a norm or with."""
    found = {}
    for number, convolution in zip(strides[0], convolutions):
        found[f"{prefix}main.{number}.weight"] = convolution.kernel
    for number, norm in zip(strides[1], norms):
        found |= {
            f"{prefix}main.{number}.weight": norm.gamma,
            f"{prefix}main.{number}.bias": norm.beta,
            f"{prefix}main.{number}.running_mean": norm.moving_mean,
            f"{prefix}main.{number}.running_var": norm.moving_variance,
        }
    return found


def variables_of_discriminator(network, prefix, last):
    numbers = [1, 4, 8, 12][: len(network.convolutions) - 1]
    return numbered(prefix, network.convolutions, network.norms, ([*numbers, last], [5, 9, 13]))


def variables_of(model):
    """Returns the variables by name in the golden file."""
    generator, recurrence = model.generator, model.generator.recurrence
    return {
        **numbered("g/", generator.image.deconvolutions, generator.image.norms, ([0, 3, 6, 9, 12], [1, 4, 7, 10])),
        "g/recurrent.weight_ih": recurrence.input_kernel,
        "g/recurrent.weight_hh": recurrence.recurrent_kernel,
        "g/recurrent.bias_ih": recurrence.input_bias,
        "g/recurrent.bias_hh": recurrence.recurrent_bias,
        **variables_of_discriminator(model.image_discriminator, "di/", 12),
        **variables_of_discriminator(model.video_discriminator, "dv/", 15),
    }


def torch_layout(value):
    value = np.asarray(value)
    return to_torch(value) if value.ndim > 1 else value


def assign(variables, prefix):
    assert set(variables) == GOLDEN.names(prefix)
    for name, variable in variables.items():
        value = GOLDEN[f"{prefix}/{name}"]
        variable.assign(from_torch(value) if value.ndim > 1 else value)


def make_model(shape=CONFIG, train=TRAIN):
    config = Config(shape, DataConfig(), train)
    tf.keras.utils.set_random_seed(0)
    model = Model.create(config)
    model.compile(*Model.make_optimizers(config))
    return model


@pytest.fixture
def model():
    model = make_model()
    assign(variables_of(model), "before")
    return model


def real():
    videos, images = (
        tf.constant(np.moveaxis(GOLDEN[f"in/real_{name}"], 1, -1) / np.float32(127.5) - 1)
        for name in ("videos_u8_NCTHW", "images_u8_NCHW")
    )
    return RealData(images, videos, tf.constant(GOLDEN["in/real_categories"]))


def recorded(prefix, one_hot=False):
    """Returns the recorded random numbers of clips."""
    h0, noise = GOLDEN[f"{prefix}/z/gru_h0"], GOLDEN[f"{prefix}/z/gru_e_TNM"].transpose(1, 0, 2)
    parts = [GOLDEN[f"{prefix}/z/content"], h0, noise.reshape(len(h0), -1)]
    labels = GOLDEN[f"{prefix}/z/classes"]
    if one_hot:
        return Draws(tf.constant(np.concatenate([*parts, np.eye(4, dtype=np.float32)[labels]], 1)))
    return Draws(tf.constant(np.concatenate(parts, 1)), tf.constant(labels))


def recorded_frames(prefix):
    """Returns the recorded random numbers of the frames that are rendered."""
    (z, labels), rows = recorded(prefix), GOLDEN[f"{prefix}/z/rows"]
    sequences, frames = np.divmod(rows, 16)
    return FrameDraws(tf.gather(z, sequences), tf.constant(frames, tf.int32), tf.gather(labels, sequences))


def check_moments(name, values):
    np.testing.assert_allclose([np.mean(values), np.std(values)], GOLDEN[name], rtol=1e-4, atol=1e-6)


def check_clips(name, clips):
    GOLDEN.check(f"{name}_frames_0_15_NCTHW", channels_first(clips)[:, :, [0, 15]])


def check_logits(name, logits, squeezed=False):
    if GOLDEN.names(name):
        GOLDEN.check(f"{name}/labels", logits.real if logits.real.shape.rank > 1 else logits.real[:, tf.newaxis])
        assert GOLDEN.names(name) == {"labels"} or logits.categories.shape == [2, 4]
        if logits.categories.shape[-1]:
            GOLDEN.check(f"{name}/categories", logits.categories)
    else:
        GOLDEN.check(name, logits.real)


def check_gradients(model, prefix, network, gradients):
    by_variable = {v.ref(): g for v, g in zip(model.networks[network].trainable_variables, gradients)}
    variables, names = variables_of(model), GOLDEN.names(f"grad/{prefix}")
    assert len(names) == len(gradients)
    for name in names:
        gradient = by_variable[variables[f"{prefix}/{name}"].ref()]
        GOLDEN.check(f"grad/{prefix}/{name}", torch_layout(gradient))


def test_outputs_with_running_statistics(model):
    clips = model.generator(recorded("eval").z, labels=recorded("eval").labels)
    check_clips("eval/videos", clips)
    check_moments("eval/videos_mean_and_std", clips)
    check_logits("eval/di_of_real_images", model.image_discriminator(real().images))
    check_logits("eval/dv_of_real_videos", model.video_discriminator(real().videos))


def test_a_latent_category_is_the_end_of_the_latent(model):
    generator = Generator(dataclasses.replace(CONFIG, conditional=False, num_classes=0, num_categories=4))
    generator.set_weights(model.generator.get_weights())
    check_clips("eval/videos", generator(recorded("eval", one_hot=True).z))


def make_discriminator(name, sigma=0.0):
    frames, patch = OTHERS[name]
    shape = [64, 64, 3] if frames == "images" else [16, 64, 64, 3]
    network = Discriminator(shape, 2, patch, sigma)
    last = {"PatchVideoDiscriminator": 11, "PatchImageDiscriminator": 12}.get(name, 15)
    assign(variables_of_discriminator(network, "", last), f"others/{name}/before")
    return network, getattr(real(), frames)


@pytest.mark.parametrize("name", OTHERS)
def test_all_discriminators(name):
    network, inputs = make_discriminator(name)
    check_logits(f"others/{name}/eval_of_real", network(inputs))


def test_noise_is_added_to_the_inputs_of_layers(monkeypatch):
    network, inputs = make_discriminator("PatchImageDiscriminator", 0.1)
    name, rng = "others/PatchImageDiscriminator", np.random.RandomState(21 + 77)
    shapes = [GOLDEN[f"{name}/noise_shape/{i}"] for i in range(4)]
    draws = [np.moveaxis(rng.standard_normal(shape).astype(np.float32), 1, -1) for shape in shapes]
    monkeypatch.setattr(networks, "noise_like", lambda features, seed, number: draws[number])
    check_logits(f"{name}/eval_of_real_with_noise_0.1", network(inputs, seed=tf.constant([0, 0])))
    check_logits(f"{name}/eval_of_real", network(inputs))


@pytest.mark.parametrize("name, layers", [(n, 4 if n != "PatchVideoDiscriminator" else 3) for n in OTHERS])
def test_noise_is_independent_for_each_layer_and_seed(monkeypatch, name, layers):
    network, inputs = make_discriminator(name, 0.1)
    drawn = []
    noise_like = networks.noise_like
    monkeypatch.setattr(
        networks, "noise_like", lambda *arguments: drawn.append(noise_like(*arguments)) or drawn[-1]
    )
    first = network(inputs, seed=tf.constant([1, 2], tf.int64)).real
    assert len(drawn) == layers
    for values in drawn:
        assert abs(np.mean(values)) < 0.1 and abs(np.std(values) - 1) < 0.1
    assert len({float(values[(0,) * len(values.shape)]) for values in drawn}) == layers
    np.testing.assert_array_equal(first, network(inputs, seed=tf.constant([1, 2], tf.int64)).real)
    assert np.abs(first - network(inputs, seed=tf.constant([1, 3], tf.int64)).real).max() > 1e-4


def test_outputs_losses_and_gradients_of_the_discriminators(model):
    seed = tf.constant([0, 0], tf.int64)
    losses, gradients = model.image_discriminator_update(real(), recorded_frames("step/di"), seed)
    GOLDEN.check("loss/di", losses["image_discriminator_loss"])
    check_gradients(model, "di", "image_discriminator", gradients)
    losses, gradients = model.video_discriminator_update(real(), recorded("step/dv"), seed)
    assert set(losses) == {"video_discriminator_loss", "real_category_loss"}
    GOLDEN.check("loss/dv", sum(losses.values()))
    check_gradients(model, "dv", "video_discriminator", gradients)


def test_a_whole_step(model, monkeypatch):
    """Feeds the recorded numbers to `train_step`, and compares all that it computes."""
    images, seen, computed = iter(["step/di", "step/g_images"]), [], {}
    videos = iter(["step/dv", "step/g_videos"])
    monkeypatch.setattr(model, "split", lambda clips, labels, seed: real())
    monkeypatch.setattr(model, "draw_frames", lambda num, seed: recorded_frames(next(images)))
    monkeypatch.setattr(model, "draw", lambda num, seed: recorded(next(videos)))
    for function in ("real_loss", "fake_loss", "category_loss"):
        original = getattr(mocogan, function)
        monkeypatch.setattr(
            mocogan, function, lambda *args, f=original, name=function: seen.append((name, args[0])) or f(*args)
        )
    image = model.generator.draw
    fakes = []
    monkeypatch.setattr(model.generator, "draw", lambda *args, **kw: fakes.append(image(*args, **kw)) or fakes[-1])
    apply = model._apply
    running = {}

    def record(name, update):
        computed[name] = update
        result = apply(name, update)
        if name == "video_discriminator":  # before the generator's step
            running.update({key: torch_layout(v) for key, v in variables_of(model).items() if "running" in key})
        return result

    monkeypatch.setattr(model, "_apply", record)
    results = model.train_step(
        ([tf.zeros([1, 5, 16, 64, 64, 3])], tf.zeros([1, 5], tf.int64), tf.zeros([1], tf.int64))
    )

    for index, name in ((0, "step/di"), (2, "step/g_images")):
        GOLDEN.check(f"{name}/fake_NCHW", np.moveaxis(fakes[index][:, 0].numpy(), -1, 1))
        check_moments(f"{name}/fake_mean_and_std", fakes[index])
    for index, name in ((1, "step/dv"), (3, "step/g_videos")):
        check_clips(f"{name}/fake", fakes[index])
        check_moments(f"{name}/fake_mean_and_std", fakes[index])

    names = [
        *("step/di_out/real/labels", "step/di_out/fake/labels"),
        *("step/dv_out/real/labels", "step/dv_out/fake/labels", "step/dv_out/real/categories"),
        *(f"step/{name}_out/fake_in_generator_step/labels" for name in ("di", "dv")),
        "step/dv_out/fake_in_generator_step/categories",
    ]
    assert len(seen) == len(names)
    for name, (_, logits) in zip(names, seen):
        GOLDEN.check(name, logits[:, tf.newaxis] if logits.shape.rank == 1 else logits)

    for prefix, network in (("di", "image_discriminator"), ("dv", "video_discriminator"), ("g", "generator")):
        losses, gradients = computed[network]
        GOLDEN.check(f"loss/{prefix}", sum(losses.values()))
        check_gradients(model, prefix, network, gradients)
        np.testing.assert_allclose(results[f"{network}_gradient_norm"], tf.linalg.global_norm(gradients), rtol=1e-5)
        assert all(np.isclose(results[name], loss) for name, loss in losses.items())

    for name, variable in variables_of(model).items():
        value = torch_layout(variable)
        if name in GOLDEN.names("after_generator_step"):
            GOLDEN.check(f"after_generator_step/{name}", value)
            value = running[name]
        GOLDEN.check(f"after/{name}", value, step=0.0 if "running" in name else 2e-4)
    assert len(GOLDEN.names("after")) == len(variables_of(model))
