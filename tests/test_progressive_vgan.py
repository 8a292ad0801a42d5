"""ProgressiveVGAN against the numbers of the authors' code (tests/data/baselines/progressive_*_public.npz), and growth.

Their networks have 16x16 pixels and 8 frames: 4x4x4, 8x8x8 and 16x16x8 (pixels and frames) are levels 0, 1 and 2.
"""

from __future__ import annotations

import dataclasses
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
from tganv2_tf.systems.progressive_vgan.schedule import lod_at, phase_at, phases, schedule, table
from tganv2_tf.training import loop

FILES = {"swl": Golden("progressive_swl_public.npz"), "wgan_gp": Golden("progressive_wgan_public.npz")}
LODS = (0, 0.5, 1, 1.25, 2)
SMALL: dict[str, Any] = {
    **{"resolution": 16, "num_frames": 8, "z_dim": 8, "fmap_base": 32, "fmap_max": 8},
    **{"stable_clips": 400, "fading_clips": 400, "batch_sizes": (4,)},
}
TRAIN: dict[str, Any] = {
    **{"global_batch_size": 4, "generator_learning_rate": 1e-3, "discriminator_learning_rate": 1e-3},
    **{"learning_rate_decay": "none", "adam_beta1": 0.0, "adam_beta2": 0.99, "adam_epsilon": 1e-8},
}


def config_of(model: dict[str, Any] | None = None, **train: Any) -> Config:
    return Config(ModelConfig(**{**SMALL, **(model or {})}), DataConfig(), TrainConfig(**{**TRAIN, **train}))


def make(config: Config, step: int = 0) -> Model:
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


def at_lod(objective: str, lod: float) -> Model:
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
