"""ProgressiveVGAN against the numbers of the authors' code (tests/data/baselines/progressive_*_public.npz), and growth.

Their networks have 16x16 pixels and 8 frames: 4x4x4, 8x8x8 and 16x16x8 (pixels and frames) are levels 0, 1 and 2.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.data_sets import write_data_set
from tests.golden_arrays import Golden, channels_first
from tganv2_tf.config import Config, DataConfig, TrainConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run
from tganv2_tf.serving.signatures import ServedGenerator
from tganv2_tf.systems.progressive_vgan import objective, scaling
from tganv2_tf.systems.progressive_vgan.config import ModelConfig
from tganv2_tf.systems.progressive_vgan.model import Model
from tganv2_tf.systems.progressive_vgan.networks import with_deviation
from tganv2_tf.systems.progressive_vgan.optimizer import PhaseRates
from tganv2_tf.systems.progressive_vgan.schedule import lod_at, phase_at, phases, schedule, table
from tganv2_tf.training import loop
from tganv2_tf.training.cost import step_cost
from tganv2_tf.training.progress import shown_losses

FILES = {"swl": Golden("progressive_swl_public.npz"), "wgan_gp": Golden("progressive_wgan_public.npz")}
LODS = (0, 0.5, 1, 1.25, 2)
SMALL: dict[str, Any] = {
    "resolution": 16,
    "num_frames": 8,
    "z_dim": 8,
    "fmap_base": 32,
    "fmap_max": 8,
    "stable_clips": 400,
    "fading_clips": 400,
    "batch_sizes": (4,),
}
TRAIN = {name: value for name, value in ModelConfig.DEFAULTS.items() if name != "flip"} | {"global_batch_size": 4}
GROWING = {"stable_clips": 8, "fading_clips": 8, "batch_sizes": (4, 4, 2)}  # borders: steps 2, 4, 6, 10
VALUE = ".ATTRIBUTES/VARIABLE_VALUE"  # ends a variable's name in a checkpoint
EVERY = ("train_steps", "log_every_steps", "preview_every_steps", "checkpoint_every_steps")


def config_of(model: dict[str, Any] | None = None, **train: Any) -> Config:
    return Config(ModelConfig(**{**SMALL, **(model or {})}), DataConfig(), TrainConfig(**{**TRAIN, **train}))


def make(config: Config, step: int = 0) -> Any:
    model = Model.create(config)
    model.compile(*Model.make_optimizers(config))
    model.step.assign(step)
    model.begin_phase(step)
    return model


def variables_of(model: Model) -> dict[str, tf.Variable]:
    """Returns the variables by name in the golden files."""
    generator, discriminator, last = model.generator, model.discriminator, model.config.model.last_level
    layers: dict[str, Any] = {"G/4x4/Dense": generator.dense, "D/4x4/Dense0": discriminator.dense}
    for level in range(last + 1):
        size = f"{4 * 2**level}x{4 * 2**level}"
        for name, network in (("G", generator), ("D", discriminator)):
            for index, layer in enumerate(network.blocks[level]):
                layers[f"{name}/{size}/Conv{index if level else ''}"] = layer
        layers[f"G/ToRGB_lod{last - level}"] = generator.to_colours[level]
        layers[f"D/FromRGB_lod{last - level}"] = discriminator.from_colours[level]
    if discriminator.to_score is not None:
        layers["D/4x4/Dense1"] = discriminator.to_score
    found = {f"{name}/weight": layer.kernel for name, layer in layers.items()}
    found |= {f"{name}/bias": layer.bias for name, layer in layers.items()}
    if discriminator.projection is not None:
        own, prefix = discriminator.projection, "R/Discriminator"
        found[f"{prefix}.dualswd/Discriminator.dualswd.proj"] = own.directions
        found[f"{prefix}.idf0/Discriminator.idf0.scale"] = own.slope
        found[f"{prefix}.idf0/Discriminator.idf0.offset"] = own.offset
    return found


def dense_order(name: str, value: np.ndarray, back: bool = False) -> np.ndarray:
    """Converts dense kernels between flattened [C, T, H, W], theirs, and [T, H, W, C]; others are unchanged."""
    value, flat = np.asarray(value), "4x4/Dense/weight" in name or "4x4/Dense0/weight" in name
    if not flat:
        return value
    axis = 1 if name.startswith("G") else 0
    channels, positions = (8, (4, 4, 4))
    shape = (*positions, channels) if back else (channels, *positions)
    split = value.reshape(*value.shape[:axis], *shape, *value.shape[axis + 1 :])
    return np.moveaxis(split, *((axis + 3, axis) if back else (axis, axis + 3))).reshape(value.shape)


def at_lod(objective: str, lod: float) -> Any:
    """Returns a model with the weights of the golden file, at a step with this lod."""
    config = config_of({"objective": objective})
    step = next(s for s in range(1000) if lod_at(config.model, schedule(config), s) == lod)
    model = make(config, step)
    golden, variables = FILES[objective], variables_of(model)
    assert set(variables) == golden.names("weights")
    for name, variable in variables.items():
        variable.assign(dense_order(name, golden[f"weights/{name}"]).reshape(variable.shape))
    model.generator.lod.assign(model.lod())
    assert float(model.generator.lod) == lod
    return model


def reals(objective: str) -> tf.Tensor:
    return tf.constant(np.moveaxis(FILES[objective]["in/real_u8_NCTHW"], 1, -1) / np.float32(127.5) - np.float32(1.0))


def at_level(model: Model, clips: tf.Tensor) -> tf.Tensor:
    """Averages clips to the size of the model's level."""
    size = model.config.model.size(model.phase.level)
    return scaling.averaged(clips, [full // part for full, part in zip(clips.shape[1:4], size)])


def draws(objective_name: str) -> tuple[tf.Tensor, objective.Mixing]:
    golden = FILES[objective_name]
    mixing = golden["in/mixing"].reshape(-1)
    of_features = golden["in/mixing_of_features"].reshape(-1) if objective_name == "swl" else mixing
    return tf.constant(golden["in/z_of_D_loss"]), objective.Mixing(tf.constant(mixing), tf.constant(of_features))


@pytest.mark.parametrize("lod", LODS)
@pytest.mark.parametrize("name", list(FILES))
def test_clips_features_and_losses_of_each_lod(name, lod):
    golden, model = FILES[name], at_lod(name, lod)
    z = tf.constant(golden["in/z_of_G_loss"])
    full = model.generator.unclipped(z, model.generator.lod)
    golden.check(f"lod_{lod:g}/fakes_NCTHW", channels_first(full), tolerance=1e-3)
    level, old_share = model.phase.level, model.old_share()
    small = model.generator.clips_of_level(z, level, old_share)
    np.testing.assert_allclose(at_level(model, full), small, atol=1e-4)
    for clips, which in ((reals(name), "reals"), (full, "fakes")):
        features = model.discriminator.features(at_level(model, clips), level, old_share)
        shown = features if name == "swl" else model.discriminator.scores(features)[:, None]
        golden.check(f"lod_{lod:g}/D_of_{which}", shown)
        if name == "swl" and which == "reals":
            golden.check(f"lod_{lod:g}/R_of_D_of_reals", model.discriminator.projection(features))
    losses, _ = model.generator_losses_and_gradients(z)
    golden.check(f"lod_{lod:g}/G_loss_per_sample", losses if name == "swl" else losses[:, None])
    terms, _ = model.discriminator_losses_and_gradients(at_level(model, reals(name)), *draws(name))
    penalty = terms["gradient_penalty"]
    others = sum(v for k, v in terms.items() if k not in ("gradient_penalty", "real_score", "fake_score"))
    # With wgan_gp the authors add [N, 1] and [N].
    golden.check(
        f"lod_{lod:g}/D_loss_per_sample", others + penalty if name == "swl" else others[:, None] + penalty[None]
    )


@pytest.mark.parametrize("name", list(FILES))
def test_gradients_of_both_networks(name):
    golden, model = FILES[name], at_lod(name, float(FILES[name]["grad_lod"]))
    _, of_generator = model.generator_losses_and_gradients(tf.constant(golden["in/z_of_G_loss"]))
    real = at_level(model, reals(name))
    _, of_discriminator = model.discriminator_losses_and_gradients(real, *draws(name))
    found = {v.ref(): g for v, g in zip(model.generator.trainable_variables, of_generator)}
    found |= {v.ref(): g for v, g in zip(model.discriminator.trainable_variables, of_discriminator)}
    names = {"G_loss": golden.names("grad/G_loss"), "D_loss": golden.names("grad/D_loss")}
    assert len(found) == len(names["G_loss"]) + len(names["D_loss"])
    for loss, each in names.items():
        for variable in each:
            value = dense_order(variable, found[variables_of(model)[variable].ref()], back=True)
            golden.check(f"grad/{loss}/{variable}", value.reshape(golden[f"grad/{loss}/{variable}"].shape))


def test_orthogonal_directions():
    golden, model = FILES["swl"], at_lod("swl", 0.5)
    name = "R/Discriminator.dualswd/Discriminator.dualswd.proj"
    directions, gradient = (tf.constant(golden[f"{prefix}/{name}"]) for prefix in ("weights", "grad/D_loss"))
    golden.check("stiefel/riemannian_gradient", objective.tangent(directions, gradient))
    # The model projects the gradient of this variable only.
    given = [tf.fill(v.shape, 0.5) for v in model.discriminator.trainable_variables]
    projected = model.on_manifold(given)
    for variable, before, after in zip(model.discriminator.trainable_variables, given, projected):
        same = np.array_equal(before, after)
        assert same != (variable is model.discriminator.projection.directions), variable.name
    moved = directions + 0.01 * gradient
    q = objective.orthogonalized(moved).numpy()
    expected = golden["stiefel/qr_of_w_plus_0.01_g"]
    signs = np.sign(np.sum(q * expected, axis=0))  # theirs are those of LAPACK
    np.testing.assert_allclose(q * signs, expected, atol=1e-4)
    np.testing.assert_allclose(q.T @ q, np.eye(8), atol=1e-5)
    r = q.T @ moved.numpy()
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-4)
    assert (np.diag(r) > 0).all()
    # What is orthogonal already is kept, also where LAPACK would change signs.
    for matrix in (q, -q, q * [1, -1, 1, -1, 1, -1, 1, -1]):
        np.testing.assert_allclose(objective.orthogonalized(tf.constant(matrix, tf.float32)), matrix, atol=1e-5)


def test_the_phases_of_the_authors_recipe():
    model = ModelConfig()
    assert [model.size(level) for level in range(6)] == [
        *((4, 4, 4), (8, 8, 8), (8, 16, 16), (16, 32, 32), (16, 64, 64), (32, 128, 128)),
    ]
    assert [model.channels(level) for level in range(-1, 6)] == [128, 128, 128, 128, 64, 32, 16]
    found = phases(model)
    # 600,000 clips each: 18,750 batches of 32, 37,500 of 16, 75,000 of 8.
    assert [(p.first_step, p.first_clip, p.level, p.batch_size, p.fading) for p in found] == [
        (0, 0, 0, 32, False),
        (18_750, 600_000, 1, 32, True),
        (37_500, 1_200_000, 1, 32, False),
        (56_250, 1_800_000, 2, 16, True),
        (93_750, 2_400_000, 2, 16, False),
        (131_250, 3_000_000, 3, 16, True),
        (168_750, 3_600_000, 3, 16, False),
        (206_250, 4_200_000, 4, 8, True),
        (281_250, 4_800_000, 4, 8, False),
        (356_250, 5_400_000, 5, 8, True),
        (431_250, 6_000_000, 5, 8, False),
    ]
    assert [p.last_step for p in found] == [*(p.first_step for p in found[1:]), None]
    assert found[-1].clips(ModelConfig.DEFAULTS["train_steps"]) == 12_000_000
    for step, lod in (
        *((0, 5), (18_749, 5), (18_750, 5), (28_125, 4.5), (37_499, 4 + 32 / 600_000), (37_500, 4), (56_249, 4)),
        *((112_499, 3), (243_750, 1.5), (356_249, 1), (356_251, 1 - 8 / 600_000), (431_250, 0), (10**7, 0)),
    ):
        assert lod_at(model, found, step) == pytest.approx(lod, abs=1e-9), step


def test_phases_of_clips_that_batches_do_not_divide():
    config = config_of({"stable_clips": 10, "fading_clips": 6, "batch_sizes": (4, 3, 2)})
    found = schedule(config)
    assert [(p.first_step, p.first_clip, p.border, p.level, p.batch_size) for p in found] == [
        *((0, 0, 0, 0, 4), (3, 12, 10, 1, 3), (5, 18, 16, 1, 3), (8, 27, 26, 2, 2), (11, 33, 32, 2, 2)),
    ]
    expected = [2, 2, 2, 1 + 2 / 3, 1 + 1 / 6, 1, 1, 1, 5 / 6, 1 / 2, 1 / 6, 0, 0]
    model = Model.create(config)
    model.compile(*Model.make_optimizers(config))
    for step, lod in enumerate(expected):
        assert lod_at(config.model, found, step) == pytest.approx(lod)
        model.step.assign(step)
        assert model.begin_phase(step) == (phase_at(found, step).last_step or config.train.train_steps)
        assert float(model.lod()) == pytest.approx(lod)
        assert model.global_batch_size == [4, 4, 4, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2][step]
    # A phase may be shorter than a batch: none of its steps is left.
    assert [p.level for p in phases(dataclasses.replace(config.model, stable_clips=0, fading_clips=0))] == [2]


def test_learning_rates():
    for decay, factor in (("none", 1.0), ("linear", 0.7)):
        train = {**ModelConfig.DEFAULTS, "learning_rate_decay": decay, "train_steps": 1_187_500}
        train.pop("flip")
        rates = PhaseRates(Config(ModelConfig(), DataConfig(), TrainConfig(**train)), 1e-3)
        found = [float(rates(tf.constant(step, tf.int64))) for step in (0, 356_249, 356_250, 431_250)]
        last = 1 - 431_250 / 1_187_500 if decay == "linear" else 1
        assert found == pytest.approx([1e-3, 1e-3 * factor, 1.5e-3 * factor, 1.5e-3 * last], rel=1e-5)


def train_step(model: Model) -> dict[str, tf.Tensor]:
    count, shape = model.global_batch_size, model.config.model
    clips = tf.random.stateless_uniform([count, *shape.size(shape.last_level), 3], [1, int(model.step)], -1.0, 1.0)
    return model.train_step(([clips[None]], tf.zeros([1, count], tf.int64), tf.fill([1], tf.cast(count, tf.int64))))


def test_adam_begins_anew_with_each_phase_and_only_then():
    model = make(config_of(GROWING))
    borders = {0, 2, 4, 6, 10}
    for step in range(12):
        model.begin_phase(step)
        moments = sum(float(tf.reduce_sum(v)) for v in model.generator_optimizer._velocities)
        assert (moments == 0) == (step in borders), step
        before = {v.ref(): v.numpy() for v in model.generator.trainable_variables}
        old_share = float(model.old_share() or 0)
        train_step(model)
        changes = [np.abs(v.numpy() - before[v.ref()]) for v in model.generator.trainable_variables]
        # Of one gradient g, Adam's step is rate * g / |g|, but for gradients near epsilon.
        moved = np.concatenate([change[change > 0] for change in changes])
        whole_steps = np.mean(np.abs(moved - 1e-3) < 1e-5)
        assert whole_steps > 0.8 if step in borders else whole_steps < 0.2, step
        for level, block in enumerate(model.generator.blocks):
            moves = any((v.numpy() != before[v.ref()]).any() for layer in block for v in layer.trainable_variables)
            # In the first step of a fade-in the new level has no share yet.
            used = level < model.phase.level or (level == model.phase.level and old_share < 1)
            assert moves == used, (step, level)
    assert int(model.generator_optimizer.iterations) == 12


def test_the_average_has_a_constant_decay_and_the_lod():
    model = make(config_of({**GROWING, "objective": "swl"}))
    pairs = list(zip(model.ema_generator.trainable_variables, model.generator.trainable_variables))
    first = [v.numpy() for _, v in pairs]
    train_step(model)
    for (average, _), value in zip(pairs, first):
        np.testing.assert_array_equal(average, value, "the average precedes the update of the generator")
    second = [v.numpy() for _, v in pairs]
    train_step(model)
    for (average, _), a, b in zip(pairs, first, second):
        np.testing.assert_allclose(average, a + 0.001 * (b - a), rtol=0, atol=1e-6)
    model.begin_phase(2)
    for lod in (2, 1.5, 1):
        if lod == 1:
            model.begin_phase(4)
        train_step(model)
        assert float(model.generator.lod) == float(model.ema_generator.lod) == lod


def test_a_step_updates_the_discriminator_first_and_draws_new_latents(monkeypatch):
    model = make(config_of({**GROWING, "objective": "swl"}), step=3)
    latents: list[tf.Tensor] = []
    applied: list[tuple[str, float]] = []
    apply = model.apply_gradients

    def record(name, gradients):
        applied.append((name, float(tf.reduce_mean(model.generator_losses_and_gradients(latents[-1])[0]))))
        apply(name, gradients)

    def draw(*arguments):
        latents.append(sample_latents(*arguments))
        return latents[-1]

    monkeypatch.setattr("tganv2_tf.systems.progressive_vgan.model.sample_latents", draw)
    monkeypatch.setattr(model, "apply_gradients", record)
    results = train_step(model)
    assert [name for name, _ in applied] == ["discriminator", "generator"]
    assert float(results["generator_loss"]) == pytest.approx(applied[1][1], rel=1e-5), "by the new discriminator"
    assert np.abs(latents[0] - latents[1]).min() > 0
    terms = [results[name] for name in ("distance", "gradient_penalty", "feature_penalty")]
    assert float(results["discriminator_loss"]) == pytest.approx(float(sum(terms)), rel=1e-5)
    directions = model.discriminator.projection.directions.numpy()
    np.testing.assert_allclose(directions.T @ directions, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("normalization", ["paper", "official"])
def test_real_clips_are_rounded_to_bytes_and_mixed(normalization):
    drawn = np.random.default_rng(0).integers(0, 256, [2, 8, 16, 16, 3])
    scale, offset = (127.5, 127.5) if normalization == "paper" else (128, 128)
    config = dataclasses.replace(config_of(), data=DataConfig(normalization=normalization))
    clips = tf.constant((drawn / scale - offset / scale).astype(np.float32))

    def blocks(values, t, h):
        n, frames, size = values.shape[:3]
        return values.reshape(n, frames // t, t, size // h, h, size // h, h, 3).mean((2, 4, 6))

    # Levels: 0 has 4 frames of 4x4, 1 has 8 of 8x8, 2 has 8 of 16x16.
    bytes_of = {0: blocks(np.rint(blocks(drawn, 1, 4)), 2, 1), 1: np.rint(blocks(drawn, 1, 2)), 2: drawn}
    for step, level, frames, share in (
        (0, 0, 1, 0),
        (125, 1, 2, 0.75),
        (250, 1, 1, 0),
        (350, 2, 1, 0.5),
        (400, 2, 1, 0),
    ):
        model = make(config, step)
        assert (model.phase.level, float(model.old_share() or 0)) == (level, share)
        values = bytes_of[level]
        coarse = blocks(values, frames, 2).repeat(frames, 1).repeat(2, 2).repeat(2, 3) if share else 0
        expected = ((1 - share) * values + share * coarse) / scale - offset / scale
        np.testing.assert_allclose(model.real_clips(clips), expected, atol=1e-5)


def test_groups_of_the_deviation():
    maps = np.random.default_rng(0).normal(size=[8, 2, 3, 3, 5]).astype(np.float32)
    for count, groups in ((8, [[0, 2, 4, 6], [1, 3, 5, 7]]), (4, [[0, 1, 2, 3]]), (3, [[0, 1, 2]]), (1, [[0]])):
        found = with_deviation(tf.constant(maps[:count])).numpy()
        np.testing.assert_array_equal(found[..., :5], maps[:count])
        for group in groups:
            expected = np.sqrt(maps[group].var(0) + 1e-8).mean()
            np.testing.assert_allclose(found[group][..., 5], expected, rtol=1e-4)


def test_the_feature_penalty_can_be_of_the_derivative():
    config = config_of({"objective": "swl", "feature_penalty_of_value": False}).model
    projection = at_lod("swl", 0).discriminator.projection
    features = tf.random.stateless_normal([5, 8], [1, 2])
    projected = tf.matmul(features, projection.directions)
    projection.directions.assign(tf.eye(8))
    with tf.GradientTape() as tape:
        tape.watch(projected)
        total = tf.reduce_sum(projection(projected))
    derivative = tape.gradient(total, projected).numpy()
    assert len({*np.sign(projection(projected).numpy()).flat}) == 2
    expected = np.mean((derivative - 0.01) ** 2)
    assert float(objective.feature_penalty(projection, projected, config)) == pytest.approx(expected, rel=1e-5)


def test_initial_weights():
    model: Any = Model.create(Config(ModelConfig(objective="swl"), DataConfig(), TrainConfig(global_batch_size=32)))
    counts = [sum(v.shape.num_elements() for v in n.trainable_variables) for n in model.networks.values()]
    assert counts == [3_698_370, 3_702_416 + 16_640], "as the authors' networks"
    for name, variable in variables_of(model).items():
        values = variable.numpy()
        if name.endswith("weight"):
            error = 5 / np.sqrt(values.size)
            assert abs(values.mean()) < error and abs(values.std() - 1) < error, name
        elif name.endswith(("bias", "offset")):
            assert not values.any(), name
        elif name.endswith("scale"):
            assert (values == 1).all(), name
    directions = model.discriminator.projection.directions.numpy()
    np.testing.assert_allclose(directions.T @ directions, np.eye(128), atol=1e-4)
    # Weights become equal in size only when they are used.
    assert model.generator.dense.scale == pytest.approx(np.sqrt(2 / 128) / 4)
    assert model.generator.to_colours[0].scale == pytest.approx(1 / np.sqrt(128))
    assert model.discriminator.blocks[0][0].scale == pytest.approx(np.sqrt(2 / (27 * 129)))


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: config_of({"resolution": 48}), "--resolution=48: valid: a power of 2 of at least 8"),
        (lambda: config_of({"resolution": 64, "num_frames": 6}), "--num_frames=6: valid: a multiple of 4"),
        (lambda: config_of({"fmap_base": 7}), "--fmap_base=7: valid: a whole number of at least 8"),
        (lambda: config_of({"batch_sizes": ()}), "--batch_sizes=: valid: one or more positive numbers"),
        (
            lambda: schedule(config_of({"batch_sizes": (8, 4)})),
            "--global_batch_size=4: valid: 8, the largest of --batch_sizes at up to 16 pixels",
        ),
        (
            lambda: schedule(config_of(GROWING, steps_per_execution=4, **dict.fromkeys(EVERY, 4))),
            "--steps_per_execution=4: valid: a divisor of the first steps of all phases, 0, 2, 4, 6, 10",
        ),
        (
            lambda: Model.create(config_of({"batch_sizes": (6,)}, global_batch_size=6)),
            "--batch_sizes=6: valid: for 1 replicas, multiples of 1, up to 3 or of 4",
        ),
    ],
)
def test_wrong_settings_are_refused_by_name(make_config, message):
    with pytest.raises(ConfigError) as error:
        make_config()
    assert str(error.value) == message


def test_the_phases_are_described():
    lines = list(Model.describe(config_of(GROWING)))
    assert lines[-5:] == table(config_of(GROWING))[1:]
    assert lines[-2:] == [
        "fade-in       16x16       8      2           6          24",
        "stable        16x16       8      2          10          32",
    ]


def tensors(prefix: pathlib.Path) -> dict[str, bytes]:
    """Returns the bytes of every value in a checkpoint."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names}


@pytest.fixture
def run(tmp_path):
    """Returns a function that trains in a folder, stopped by a signal after any of some steps, and the exit status."""

    def train(
        name: str, model: dict[str, Any], stops: tuple[int, ...] = (), strategy: Any = None, **settings: Any
    ) -> int:
        every = {"log_every_steps": 1, "preview_every_steps": 0, "num_previews": 1}
        config = config_of({**GROWING, "objective": "swl", **model}, **{**every, **settings})
        train = dataclasses.replace(config.train, model_dir=str(tmp_path / name), distribution="one_device")
        size = config.model.resolution
        folder = tmp_path / f"data{size}"
        if not folder.exists():
            write_data_set(folder, [9, 12, 8, 10, 11, 8], height=size, width=size)
        data = DataConfig(data_dir=str(folder), shuffle_buffer=4)
        config = dataclasses.replace(config, train=train, data=data)

        def on_step(step, logs):
            return signal.SIGTERM if step in stops else None

        return loop.train(config, strategy=strategy, on_step=on_step)

    return train


@pytest.fixture
def eagerly():
    """Runs steps eagerly: tracing takes longer than a few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_run_grows_and_can_be_stopped_and_taken_up(run, tmp_path):
    growing, stops = {"stable_clips": 4}, (3, 6)  # borders: steps 1, 3, 4, 8
    assert run("whole", growing, train_steps=9, preview_every_steps=6) == 0
    for _ in stops:  # at a border, and while 16x16 pixels fade in
        assert run("stopped", growing, stops, train_steps=9) == 128 + signal.SIGTERM
    generator, step = load_generator(Run.open(str(tmp_path / "stopped")))
    assert (step, float(generator.lod)) == (6, 0.75), "of the latest step, 5, after one of four batches"
    z = tf.random.stateless_normal([2, 8], [1, 2])
    clips = generator(z)
    expected = generator.clips_of_level(z, 2, generator.lod)
    np.testing.assert_allclose(clips, tf.clip_by_value(expected, -1, 1), atol=1e-5)
    served = ServedGenerator(generator)
    np.testing.assert_allclose(served.sample(z, tf.constant(8), tf.constant(1)), clips, atol=1e-5)
    assert run("stopped", growing, train_steps=9) == 0
    expected, found = (tensors(tmp_path / name / "checkpoints" / "ckpt-9") for name in ("whole", "stopped"))
    assert len(expected) > 100
    assert [name for name, value in expected.items() if found[name] != value] == []
    position = tf.train.load_variable(str(tmp_path / "whole/checkpoints/ckpt-9"), "data_position/" + VALUE)
    assert list(position) == [4 * 4 + 5 * 2], "four batches of four clips, and five of two"


@pytest.mark.slow
def test_a_signal_between_two_phases_stops_the_run(run, tmp_path, monkeypatch):
    begin, handler = Model.begin_phase, signal.getsignal(signal.SIGTERM)

    def begin_and_stop(model, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return begin(model, step)

    monkeypatch.setattr(Model, "begin_phase", begin_and_stop)
    # Two phases, each with a graph: 8x8 pixels fade in in two steps, and stay.
    small = {"resolution": 8, "stable_clips": 0, "batch_sizes": (4,)}
    assert run("run", small, train_steps=12) == 128 + signal.SIGTERM
    # One step, in the graph of the new phase.
    assert tf.train.load_variable(str(tmp_path / "run/checkpoints/ckpt-3"), "generator/lod/" + VALUE) == 0
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_replicas_share_batches(run, tmp_path, two_replicas):
    # The second step is in another phase.
    assert run("run", {"stable_clips": 4}, strategy=two_replicas, train_steps=2) == 0
    name = "discriminator/projection/directions/" + VALUE
    directions = tf.train.load_variable(str(tmp_path / "run/checkpoints/ckpt-2"), name)
    np.testing.assert_allclose(directions.T @ directions, np.eye(8), atol=1e-5)


def test_the_cost_of_a_step_can_be_estimated():
    cost = step_cost(config_of({**GROWING, "resolution": 8, "objective": "swl"}), 4)
    assert cost.multiply_adds > 0 and cost.activation_bytes > 0


def test_the_bar_shows_losses_without_a_penalty():
    assert shown_losses({"generator_loss": 0.25, "discriminator_loss": 1.0}) == "G 0.250 D 1.000"
