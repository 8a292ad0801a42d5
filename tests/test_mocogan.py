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
from tganv2_tf.serving.signatures import ServedGenerator, export
from tganv2_tf.systems.mocogan import discriminators
from tganv2_tf.systems.mocogan import model as mocogan
from tganv2_tf.systems.mocogan.config import DISCRIMINATORS, ModelConfig
from tganv2_tf.systems.mocogan.discriminators import Discriminator
from tganv2_tf.systems.mocogan.model import Draws, FrameDraws, Model, RealData
from tganv2_tf.systems.mocogan.networks import GRU, Generator
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
SMALL = ModelConfig(
    resolution=16,
    content_dim=3,
    motion_dim=2,
    generator_width=2,
    image_discriminator_width=2,
    video_discriminator_width=2,
)
KINDS = {  # without categories, latent categories, classes
    "plain": SMALL,
    "latent": dataclasses.replace(SMALL, num_categories=3),
    "classes": dataclasses.replace(SMALL, conditional=True, num_classes=3),
}
OTHERS = {
    "ImageDiscriminator": ("images", False),
    "PatchImageDiscriminator": ("images", True),
    "VideoDiscriminator": ("videos", False),
    "PatchVideoDiscriminator": ("videos", True),
}


def numbered(prefix, convolutions, norms, numbers):
    """Returns the variables of convolutions and norms by name, given their numbers in the file."""
    found = {}
    for number, convolution in zip(numbers[0], convolutions):
        found[f"{prefix}main.{number}.weight"] = convolution.kernel
    for number, norm in zip(numbers[1], norms):
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


def check_logits(name, logits):
    if f"{name}/categories" in GOLDEN.arrays:
        GOLDEN.check(f"{name}/labels", logits.real[:, tf.newaxis])
        GOLDEN.check(f"{name}/categories", logits.categories)
    else:
        GOLDEN.check(name, logits.real)


def kept(values, value):
    """Returns the value after appending it to a list."""
    values.append(value)
    return value


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
    monkeypatch.setattr(discriminators, "noise_like", lambda features, seed, number: draws[number])
    check_logits(f"{name}/eval_of_real_with_noise_0.1", network(inputs, seed=tf.constant([0, 0])))
    check_logits(f"{name}/eval_of_real", network(inputs))


@pytest.mark.parametrize(("name", "layers"), [(n, 4 if n != "PatchVideoDiscriminator" else 3) for n in OTHERS])
def test_noise_is_independent_for_each_layer_and_seed(monkeypatch, name, layers):
    network, inputs = make_discriminator(name, 0.1)
    drawn: list[tf.Tensor] = []
    noise_like = discriminators.noise_like
    monkeypatch.setattr(discriminators, "noise_like", lambda *arguments: kept(drawn, noise_like(*arguments)))
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
    frames, clips = iter(["step/di", "step/g_images"]), iter(["step/dv", "step/g_videos"])
    monkeypatch.setattr(model, "split", lambda *_: real())
    monkeypatch.setattr(model, "draw_frames", lambda *_: recorded_frames(next(frames)))
    monkeypatch.setattr(model, "draw", lambda *_: recorded(next(clips)))
    logits: list[tf.Tensor] = []
    fakes: list[tf.Tensor] = []
    computed, running = {}, {}
    draw, apply = model.generator.draw, model._apply
    for name in ("real_loss", "fake_loss", "category_loss"):
        loss = getattr(mocogan, name)
        monkeypatch.setattr(mocogan, name, lambda first, *rest, f=loss: f(kept(logits, first), *rest))
    monkeypatch.setattr(model.generator, "draw", lambda *given: kept(fakes, draw(*given)))

    def record(name, update):
        computed[name] = update
        results = apply(name, update)
        if name == "video_discriminator":  # the generator's step moves the running values of the discriminators again
            running.update({key: torch_layout(v) for key, v in variables_of(model).items() if "running" in key})
        return results

    monkeypatch.setattr(model, "_apply", record)
    results = model.train_step(([tf.zeros([1, 5, 1, 1, 1, 3])], tf.zeros([1, 5], tf.int64), tf.zeros([1], tf.int64)))

    for name, videos in zip(("step/di", "step/dv", "step/g_images", "step/g_videos"), fakes):
        if f"{name}/fake_NCHW" in GOLDEN.arrays:
            GOLDEN.check(f"{name}/fake_NCHW", channels_first(videos)[:, :, 0])
        else:
            check_clips(f"{name}/fake", videos)
        check_moments(f"{name}/fake_mean_and_std", videos)

    names = [
        *("di_out/real/labels", "di_out/fake/labels"),
        *("dv_out/real/labels", "dv_out/fake/labels", "dv_out/real/categories"),
        *("di_out/fake_in_generator_step/labels", "dv_out/fake_in_generator_step/labels"),
        "dv_out/fake_in_generator_step/categories",
    ]
    assert len(logits) == len(names)
    for name, values in zip(names, logits):
        GOLDEN.check(f"step/{name}", values[:, tf.newaxis] if values.shape.rank == 1 else values)

    for prefix, network in (("di", "image_discriminator"), ("dv", "video_discriminator"), ("g", "generator")):
        losses, gradients = computed[network]
        GOLDEN.check(f"loss/{prefix}", sum(losses.values()))
        check_gradients(model, prefix, network, gradients)
        np.testing.assert_allclose(results[f"{network}_gradient_norm"], tf.linalg.global_norm(gradients), rtol=1e-5)

    variables = variables_of(model)
    assert set(variables) == GOLDEN.names("after")
    for name, variable in variables.items():
        value = torch_layout(variable)
        if name in GOLDEN.names("after_generator_step"):
            GOLDEN.check(f"after_generator_step/{name}", value)
            value = running[name]
        GOLDEN.check(f"after/{name}", value, step=0.0 if "running" in name else 2e-4)


def test_weight_decay_is_added_to_all_gradients(monkeypatch):
    model = make_model(dataclasses.replace(SMALL, weight_decay=0.25))
    given = []
    monkeypatch.setattr(model.image_discriminator_optimizer, "apply_gradients", lambda pairs: given.extend(pairs))
    variables = model.image_discriminator.trainable_variables
    model._apply("image_discriminator", ({}, [tf.ones_like(variable) for variable in variables]))
    assert len(given) == len(variables) == 8
    for (gradient, _), variable in zip(given, variables):
        np.testing.assert_allclose(gradient, 1 + 0.25 * variable.numpy(), rtol=1e-6)


def test_epsilon_of_adam_is_added_after_the_bias_correction():
    gradients, epsilon, beta1, beta2 = np.array([[1e-8, 1.0], [3e-8, -2.0]]), 1e-8, 0.5, 0.999
    variables = {kind: tf.Variable([1.0, 1.0]) for kind in (PyTorchAdam, Adam)}
    optimizers = {kind: kind(1e-2, beta1, beta2, epsilon) for kind in variables}
    expected, m, v = np.ones(2), 0.0, 0.0
    for t, gradient in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        expected -= 1e-2 * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        for kind, variable in variables.items():
            optimizers[kind].apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    np.testing.assert_allclose(variables[PyTorchAdam], expected, rtol=0, atol=1e-6)
    assert abs(variables[Adam].numpy()[0] - expected[0]) > 5e-3


def test_a_step_of_the_recurrence_by_hand():
    gru = GRU(1)
    gru(tf.zeros([1, 1, 1]), tf.zeros([1, 1]))  # builds
    weights = [[0.5, -1.0, 2.0]], [[0.25, 0.75, -0.5]], [0.1, 0.2, 0.3], [-0.3, 0.4, 0.6]
    gru.set_weights([np.array(weight) for weight in weights])
    x, h = 0.8, -0.6

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    r = sigmoid(0.5 * x + 0.1 + 0.25 * h - 0.3)
    z = sigmoid(-1.0 * x + 0.2 + 0.75 * h + 0.4)
    n = np.tanh(2.0 * x + 0.3 + r * (-0.5 * h + 0.6))
    np.testing.assert_allclose(gru(tf.constant([[[x]]]), tf.constant([[h]])), [[[(1 - z) * n + z * h]]], rtol=1e-6)


def make_generator(kind, resolution=16):
    """Returns a generator whose videos are far from constant, latents and labels."""
    config = dataclasses.replace(KINDS[kind], resolution=resolution)
    tf.keras.utils.set_random_seed(0)
    generator = Generator(config)
    for variable in generator.image.trainable_variables:
        variable.assign(4.0 * variable if "conv" in variable.name else variable)
    z = latents_from_seeds(tf.constant([3, 4, 5], tf.int64), config.latent)
    return generator, z, tf.constant([2, 0, 1]) if config.conditional else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [(3, 4), (16, 5), (10, 30), (20, 1)])
def test_a_video_in_parts_equals_the_whole(kind, parts):
    generator, z, labels = make_generator(kind)
    whole, last = generator.begin(z, sum(parts), labels=labels)
    first, state = generator.begin(z, parts[0], labels=labels)
    assert state.shape == [3, 3] and generator.state_shape == [None, 3]
    second, state = generator.resume(state, parts[1], labels=labels, z=z)
    np.testing.assert_allclose(tf.concat([first, second], 1), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(state[:, -1], [sum(parts)] * 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_gives_the_same_video_in_every_batch(kind):
    generator, z, labels = make_generator(kind)
    together = generator(z, num_frames=24, labels=labels)
    for i in range(3):
        alone = generator(z[i : i + 1], num_frames=24, labels=None if labels is None else labels[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-5)


def test_frames_after_a_training_clip_have_noise_of_their_own():
    generator, z, _ = make_generator("plain")
    noise = generator._noise(z, tf.zeros([3], tf.int32), 2000)
    np.testing.assert_array_equal(noise[:, :16], tf.reshape(z[:, 5:], [3, 16, 2]))
    later = noise[:, 16:].numpy()
    assert len(np.unique(later)) > 0.999 * later.size
    assert abs(later.mean()) < 0.04 and abs(later.std() - 1) < 0.04
    assert np.abs(np.corrcoef(later.transpose(0, 2, 1).reshape(6, -1)) - np.eye(6)).max() < 0.1, "samples, dimensions"
    assert np.abs(np.mean(later[:, 1:] * later[:, :-1])) < 0.05, "frames"
    video = generator(z, num_frames=40)
    assert np.abs(np.diff(video, axis=1)).max(axis=(2, 3, 4)).min() > 1e-3
    np.testing.assert_array_equal(video, generator(z, num_frames=40))
    np.testing.assert_allclose(video[:, :16], generator(z), rtol=0, atol=1e-5)


def test_the_content_is_still_and_the_category_matters():
    generator, z, labels = make_generator("classes")
    other = generator(z, labels=tf.constant([0, 1, 2]))
    assert np.abs(other - generator(z, labels=labels)).max(axis=(1, 2, 3, 4)).min() > 1e-2
    for wrong in ({}, {"labels": labels, "level": 2}):
        with pytest.raises(ValueError, match=r"labels are missing|level 2"):
            generator(z, **wrong)
    plain, z, _ = make_generator("plain")
    with pytest.raises(ValueError, match="labels are for a conditional"):
        plain(z, labels=labels)
    with pytest.raises(ValueError, match="expected"):
        plain(z[:, 1:])
    still = plain.image(tf.concat([z[:, :3], tf.zeros([3, 2])], 1))
    assert np.abs(still[0] - still[1]).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_served_functions_and_streams(kind):
    generator, z, labels = make_generator(kind)
    names = ["a", "b", "c"] if generator.config.conditional else []
    served = ServedGenerator(generator, names)
    given = [] if labels is None else [labels]
    whole = generator(z, num_frames=40, labels=labels)
    for number in (1, 16, 40):
        sampled = served.sample(z, number, 1, *given)
        np.testing.assert_allclose(sampled, whole[:, :number], rtol=0, atol=1e-5)
    first, state = served.begin(z, 16, 1, *given)
    second, _ = served.resume(state, 24, 1, z, *given)
    np.testing.assert_allclose(tf.concat([first, second], 1), whole, rtol=0, atol=1e-5)

    sampler = Sampler(served, "")
    assert (sampler.fixed_length, sampler.z_dim) == (False, generator.config.z_dim)
    labels = None if labels is None else labels.numpy()
    chunks = list(sampler.stream(z.numpy(), 40, labels=labels, chunk=7))
    assert [chunk.shape[1] for chunk in chunks] == [7, 7, 7, 7, 7, 5]
    expected = sampler.render(z.numpy(), 40, labels=labels)
    assert np.abs(np.concatenate(chunks, 1).astype(int) - expected).max() <= 1
    made = served.functions["generate"](3, 3, 40, *given)["videos"].numpy()
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_export(tmp_path):
    generator, z, labels = make_generator("classes")
    loaded = tf.saved_model.load(export(generator, tmp_path, class_names=["a", "b", "c"]))
    videos, state = loaded.begin(z, 10, 1, labels)
    more, _ = loaded.resume(state, 10, 1, z, labels)
    expected = generator(z, num_frames=20, labels=labels)
    np.testing.assert_allclose(tf.concat([videos, more], 1), expected, rtol=0, atol=1e-5)


def data_of(config, clips):
    """Returns random clips, whose pixels have the number of their clip and frame in two colours, and labels."""
    shape = [1, clips, config.num_frames, config.resolution, config.resolution]
    clip, frame = np.meshgrid(np.arange(clips), np.arange(config.num_frames), indexing="ij")
    colours = np.stack([clip / clips, frame / config.num_frames, 0 * clip], -1).astype(np.float32)[
        None, :, :, None, None
    ]
    labels = tf.range(clips, dtype=tf.int64)[tf.newaxis] % max(config.num_classes, 1)
    return [tf.constant(np.broadcast_to(colours, [*shape, 3]))], labels, tf.constant([clips], tf.int64)


@pytest.mark.parametrize(
    ("batch", "image_clips", "images", "videos"), [(8, 0, 4, 4), (8, 6, 6, 2), (8, 1, 1, 7), (2, 0, 1, 1)]
)
def test_images_and_videos_are_of_different_clips(batch, image_clips, images, videos):
    shape = dataclasses.replace(SMALL, image_clips=image_clips)
    model = make_model(shape, dataclasses.replace(TRAIN, global_batch_size=batch))
    (levels, labels, _), numbers = data_of(SMALL, batch), set()
    for step in range(20):
        real = model.split(levels[0][0], tf.range(batch, dtype=tf.int64), tf.constant([step, 0], tf.int64))
        assert real.images.shape[:1] == [images] and real.videos.shape[:2] == [videos, 16]
        np.testing.assert_allclose(real.videos[:, 0, 0, 0, 0] * batch, real.labels, atol=1e-5)
        of_clips = {*np.round(real.images[:, 0, 0, 0] * batch)}, {*np.round(real.videos[:, 0, 0, 0, 0] * batch)}
        assert [len(found) for found in of_clips] == [images, videos] and not of_clips[0] & of_clips[1]
        numbers |= {*np.round(real.images[:, 0, 0, 1] * 16)}
    assert numbers <= {*range(16)} and len(numbers) >= 9
    on_replica = model.split(levels[0][0, : batch // 2], labels[0], tf.constant([0, 0]))
    assert len(on_replica.images) == max(1, images // 2)


def run_steps(kind, count):
    """Trains a new model; returns the results of its steps, and its generator's weights."""
    model = make_model(KINDS[kind], dataclasses.replace(TRAIN, global_batch_size=6, ema_decay=0.5))
    return [model.train_step(data_of(KINDS[kind], 6)) for _ in range(count)], model.generator.get_weights()


@pytest.mark.parametrize(
    ("kind", "further"),
    [
        ("plain", set()),
        ("latent", {"fake_category_loss"}),
        ("classes", {"fake_category_loss", "real_category_loss"}),
    ],
)
def test_scalars_of_a_step(kind, further):
    (results,), _ = run_steps(kind, 1)
    networks = ("generator", "image_discriminator", "video_discriminator")
    assert set(results) == {f"{name}_{what}" for name in networks for what in ("loss", "gradient_norm")} | further
    assert all(np.isfinite(value) for value in results.values())


def test_a_repeated_step_is_equal():
    (first, second), weights = run_steps("plain", 2)
    (again, _), same_weights = run_steps("plain", 2)
    for name, value in first.items():
        assert value != second[name] and np.isclose(value, again[name], rtol=1e-4), name
    for value, same in zip(weights, same_weights):
        np.testing.assert_allclose(value, same, rtol=0, atol=1e-5)


def test_all_random_numbers_depend_on_the_step_and_differ_between_uses(monkeypatch):
    model, seeds = make_model(dataclasses.replace(SMALL, noise_sigma=0.1)), []
    sample, noise = mocogan.sample_latents, discriminators.noise_like

    def record(seed):
        seeds.append((*seed.numpy(),))

    monkeypatch.setattr(mocogan, "sample_latents", lambda num, spec, seed: record(seed) or sample(num, spec, seed))
    monkeypatch.setattr(discriminators, "noise_like", lambda f, seed, i: i or record(seed) or noise(f, seed, i))
    monkeypatch.setattr(model, "_apply", lambda *_: {})
    for step in range(2):
        model.step.assign(step)
        model.update(*data_of(SMALL, 2)[:2])
    # Each step: latents for D_I, for D_V, and two for G; noise of real and generated inputs of both, and of both for G.
    assert len(seeds) == len(set(seeds)) == 2 * (4 + 6)


def test_replicas_draw_different_numbers_and_keep_equal_weights(two_replicas):
    """The step runs eagerly, because tracing it takes longer."""
    config = Config(SMALL, DataConfig(), dataclasses.replace(TRAIN, global_batch_size=8))
    with two_replicas.scope():
        tf.keras.utils.set_random_seed(0)
        model = Model.create(config)
        model.compile(*Model.make_optimizers(config))
    before = model.generator.get_weights()
    data = data_of(SMALL, 4)
    seeds = two_replicas.experimental_local_results(two_replicas.run(lambda: model._seeds(0)))
    assert len({(*seed.numpy(),) for of_replica in seeds for seed in of_replica}) == 6
    results = two_replicas.run(tf.autograph.experimental.do_not_convert(model.train_step), args=(data,))
    assert all(np.isfinite(two_replicas.experimental_local_results(value)[0]) for value in results.values())
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(before, model.generator.get_weights()))
    for variable in model.generator.trainable_variables:
        first, second = two_replicas.experimental_local_results(variable)
        np.testing.assert_array_equal(first, second)


def test_the_cost_of_a_step_is_known():
    four, one = (step_cost(Config(KINDS["classes"], DataConfig(), TRAIN), clips) for clips in (4, 1))
    assert four.multiply_adds > 1.5 * one.multiply_adds > 0 and four.activation_bytes > 1.5 * one.activation_bytes


def test_parameters_of_the_full_width():
    def count(network):
        return sum(variable.shape.num_elements() for variable in network.trainable_variables)

    full, patch = ModelConfig(), ModelConfig(image_discriminator="full", video_discriminator="patch")
    with tf.Graph().as_default():
        sizes = {name: count(discriminators.make_discriminator(name, full)) for name in DISCRIMINATORS}
        assert sizes == {"image_discriminator": 663_296, "video_discriminator": 11_056_896}
        sizes = {name: count(discriminators.make_discriminator(name, patch)) for name in DISCRIMINATORS}
        assert sizes == {"image_discriminator": 2_765_568, "video_discriminator": 2_650_880}
        assert count(Generator(full)) == 3_249_684
        assert count(Generator(dataclasses.replace(full, num_categories=6))) == 3_298_836
    lines = list(Model.describe(Config(SMALL, DataConfig(), TRAIN)))
    assert lines[-1] == "real data per step: 3 clips, and a frame of each of 2 others"


def test_initial_weights_are_those_of_pytorch():
    model = make_model(dataclasses.replace(SMALL, generator_width=16, motion_dim=10))
    bounds = [
        (model.generator.image.deconvolutions[1].kernel, (64 * 16) ** -0.5),  # of outputs
        (model.video_discriminator.convolutions[1].kernel, (2 * 64) ** -0.5),  # of inputs
        *((weight, 10**-0.5) for weight in model.generator.recurrence.trainable_variables),
    ]
    for variable, bound in bounds:
        assert 0.8 * bound < np.abs(variable).max() <= 1.00001 * bound
    for norm in (*model.generator.image.norms, *model.video_discriminator.norms):
        assert np.all(norm.gamma.numpy() == 1) and np.all(norm.beta.numpy() == 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 40}, "--resolution=40: valid: a multiple of 16"),
        ({"num_frames": 12}, "--num_frames=12: valid: a whole number of at least 13"),
        ({"motion_dim": 0}, "--motion_dim=0: valid: a whole number of at least 1"),
        ({"noise_sigma": -0.1}, "--noise_sigma=-0.1: valid: a number of at least 0"),
        ({"num_categories": 1}, "--num_categories=1: valid: 0 or at least 2"),
        ({"num_categories": 3, "conditional": True}, "--num_categories=3: valid: 0 with --conditional"),
        ({"num_classes": 3}, "--num_classes=3: valid: 0 without --conditional"),
        ({"infogan": False, "conditional": True}, "--infogan=false: valid: true with --conditional"),
        (
            {"video_discriminator": "patch", "conditional": True},
            "--video_discriminator=patch: valid: full with --conditional, or with --num_categories unless "
            "--infogan=false",
        ),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError) as error:
        ModelConfig(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(("image_clips", "batch", "name"), [(5, 5, "image_clips"), (0, 1, "global_batch_size")])
def test_both_discriminators_need_clips(image_clips, batch, name):
    train = dataclasses.replace(TRAIN, global_batch_size=batch)
    with pytest.raises(ConfigError, match=f"--{name}="):
        Model.create(Config(dataclasses.replace(SMALL, image_clips=image_clips), DataConfig(), train))


def test_settings_survive_a_file():
    config = Config(KINDS["latent"], DataConfig(), TRAIN)
    assert Config.from_json(config.to_json()) == config
    assert size_of(config.model.latent) == config.model.z_dim == 3 + 17 * 2 + 3
    drawn = sample_latents(50, config.model.latent, tf.constant([0, 0]))
    np.testing.assert_array_equal(tf.reduce_sum(drawn[:, -3:], 1), np.ones(50))
