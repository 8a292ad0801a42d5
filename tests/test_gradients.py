"""The fast gradients compared with the definition in `models/objective.py`, for every loss of every objective."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.speed.plain_networks import PlainDiscriminator, PlainGenerator
from tests.conftest import PRECISIONS, tiny_config
from tganv2_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.fast_gradients import check_discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.step import StepGradients
from tganv2_tf.models.tganv2 import TGANv2
from tganv2_tf.subsampling import video_pyramid

FACTORS: dict[str, tuple[Any, ...]] = {
    "loss": ("non_saturating", "minimax", "hinge", "relativistic"),
    "penalize_fakes": (False, True),
    "score": ("sum", "separate"),
    "r1": ("off", "every step", "lazy"),
    "spectral_norm": (True, False),
    "num_classes": (0, 3),
    "self_modulation": (False, True),
    "batch_strides": ((2,), (1,)),
    "n_dis": (1, 2),
    "microbatches": (1, 2),
    "diffaugment": ("", "color,cutout"),
    "recompute": (False, True),
}
CLASSES = 3
# Allows for other summation orders in float32. A missing bias, factor or term causes errors above 1e-2.
TOLERANCE = 1e-3


def pairwise(factors: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Returns a small set of combinations that contains every pair of values of two factors."""
    rows = [dict(zip(factors, row)) for row in itertools.product(*factors.values())]
    values = [(name, value) for name in factors for value in factors[name]]
    # In sets of pairs, counting takes seconds, in each process that collects the tests.
    has = np.array([[row[name] == value for name, value in values] for row in rows], np.float32)
    missing = np.array([[one[0] < other[0] for other in values] for one in values], np.float32)
    chosen = []
    while missing.any():
        best = int(np.argmax(np.sum(has @ missing * has, axis=1)))
        chosen.append(rows[best])
        missing[np.outer(has[best], has[best]) > 0] = 0
    return chosen


def config_of(row: dict[str, Any]) -> Config:
    """One level of four frames and one of a single frame, where taps meet only padding."""
    model = {
        **{name: row[name] for name in ("spectral_norm", "num_classes", "self_modulation", "batch_strides")},
        "conditional": bool(row["num_classes"]),
        "frame_strides": (4,),
        "discriminator_channels": (4, 5),
    }
    return tiny_config(
        model,
        **{name: row[name] for name in ("loss", "score", "n_dis", "diffaugment", "recompute")},
        gradient_accumulation_steps=row["microbatches"],
        r1_weight=0.0 if row["r1"] == "off" else 50.0,
        r1_level_factor=0.5,
        r1_every_steps=2 if row["r1"] == "lazy" else 1,
        penalize_fakes=row["penalize_fakes"] and row["r1"] != "off",
        ema_decay=0.0,
    )


def with_gradients(config: Config, gradients: str) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, gradients=gradients))


NETWORKS: tuple[Any, Any] = Generator, Discriminator


def new_model(config: Config, bias: float = 0.0, networks: tuple[Any, Any] = NETWORKS) -> TGANv2:
    """Models with the same weights for both kinds of networks, all different from the initial values."""
    tf.keras.utils.set_random_seed(1)
    generator, discriminator = (network(config.model) for network in networks)
    model = TGANv2(generator, discriminator, config)
    random = np.random.default_rng(2)
    for variable in [*model.generator.trainable_variables, *model.discriminator.trainable_variables]:
        variable.assign_add(0.1 * random.standard_normal(variable.shape).astype(np.float32))
    for network in model.discriminator.level_discriminators:
        network.linear.bias.assign_add([bias])
    for _ in range(5):
        model.discriminator.update_singular_vectors()
    return model


@functools.cache
def shared_model(shape: ModelConfig, bias: float) -> TGANv2:
    """Returns the only model of this shape: computing gradients changes no weights, and building it takes long."""
    return new_model(Config(shape, DataConfig(), TrainConfig(ema_decay=0.0)), bias)


def model_of(config: Config, bias: float = 0.0) -> TGANv2:
    """Returns the shared model of this shape, with the other settings of `config`."""
    model = shared_model(config.model, bias)
    model.config = config
    model.latest_penalty.assign(0.0)
    return model


def gradients_of(model: TGANv2, update: int) -> StepGradients:
    """Returns losses and gradients with the inputs of a discriminator update; the first one trains the generator."""
    config = model.config
    shape = [4, config.model.num_frames, config.model.resolution, config.model.resolution, 3]
    clips = tf.random.stateless_uniform(shape, [update, 1], -1, 1)
    return model.losses_and_gradients(
        video_pyramid(clips, config.model.pyramid, tf.constant([update, 2])),
        sample_latents(4, config.model.z_dim, tf.constant([update, 3])),
        [stride - 1 - update for stride in config.model.frame_strides],
        tf.constant([0, 2, 1, 2]) if config.model.conditional else None,
        tf.constant([update, 4]),
        train_generator=update == 0,
    )


def updates(model: TGANv2, gradients: str) -> Iterator[StepGradients]:
    """Returns the gradients of n_dis discriminator updates. The second has no lazy penalty, like another step."""
    model.config = with_gradients(model.config, gradients)
    for update in range(model.config.train.n_dis):
        model.step.assign(update)
        yield gradients_of(model, update)


def assert_same(fast: StepGradients, plain: StepGradients) -> None:
    """Compares scalars and gradients; errors are relative to the norm, or to 1 % of the largest in the network."""
    for ours, expected in ((fast.losses, plain.losses), (fast.mean_logits, plain.mean_logits)):
        assert ours.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for gradients in ("generator_gradients", "discriminator_gradients"):
        ours, expected = getattr(fast, gradients), getattr(plain, gradients)
        assert [gradient.shape for gradient in ours] == [gradient.shape for gradient in expected]
        norms = [np.linalg.norm(gradient) for gradient in expected]
        for index, (one, other) in enumerate(zip(ours, expected)):
            error = np.linalg.norm(one - other) / max(norms[index], 0.01 * max(norms))
            assert error < TOLERANCE, f"{gradients} {index} of shape {other.shape} is off by {error:.1e}"


def name_of(row: dict[str, Any]) -> str:
    return ",".join(str(value).replace(" ", "_") or "none" for value in row.values())


@pytest.mark.parametrize("row", pairwise(FACTORS), ids=name_of)
def test_fast_gradients_are_those_of_the_definition(row: dict[str, Any]) -> None:
    model = model_of(config_of(row))
    for update, (fast, plain) in enumerate(zip(list(updates(model, "fast")), updates(model, "plain"))):
        assert_same(fast, plain)
        assert bool(plain.generator_gradients) == (update == 0)
        # The last biases cancel in differences of scores.
        share = 0.8 if row["loss"] == "relativistic" else 0.9
        assert np.mean([np.any(gradient) for gradient in plain.discriminator_gradients]) > share
        assert (plain.losses["r1_penalty"] > 0) == (row["r1"] != "off")


@pytest.mark.parametrize("penalize_fakes", [False, True])
def test_joint_losses_with_a_lazy_penalty_in_a_graph(penalize_fakes: bool) -> None:
    """Batch norms keep moments of the forward pass, which must not be inside a conditional branch."""
    row = {name: values[0] for name, values in FACTORS.items()}
    # Graphs of several parts take long; the case with fewer gradients has a single one.
    row |= {"loss": "relativistic", "r1": "lazy", "penalize_fakes": penalize_fakes, "microbatches": 1 + penalize_fakes}
    config = config_of(row)
    shape = dataclasses.replace(config.model, discriminator_channels=(4,))
    model = new_model(dataclasses.replace(config, model=shape))

    def step() -> StepGradients:
        found = gradients_of(model, 0)
        model.generator.update_moving_statistics()
        return found

    found: dict[str, list[StepGradients]] = {}
    for gradients in ("plain", "fast"):
        model.config = with_gradients(model.config, gradients)
        run = tf.function(step, autograph=False) if gradients == "fast" else step
        before, found[gradients] = model.generator.batch_norms[0].moving_mean.numpy(), []
        for number in range(2):  # one graph for both: the second step has no penalty
            model.step.assign(number)
            found[gradients].append(run())
        assert np.any(model.generator.batch_norms[0].moving_mean.numpy() != before)
    for fast, plain in zip(found["fast"], found["plain"]):
        assert_same(fast, plain)
    norms = [tf.linalg.global_norm(each.discriminator_gradients) for each in found["plain"]]
    assert norms[0] > 1.3 * norms[1], "they differ in the penalty"


@pytest.mark.parametrize("grow", [False, True])
def test_networks_in_cheaper_forms_are_those_of_the_definition(grow: bool) -> None:
    """Levels of four, two and one frames, with blocks down to a single position; plain and fast gradients."""
    model = {
        "resolution": 32,
        "frame_strides": (2, 2),
        "batch_strides": (1, 2),
        "grow_length_one_axes": grow,
        "lstm_channels": 6,
        "up_channels": (5, 4, 3, 3, 3),
        "discriminator_channels": (4, 5, 6, 7),
    }
    config = tiny_config(model, r1_weight=50.0, ema_decay=0.0)
    fast = next(updates(new_model(config), "fast"))
    defined = new_model(with_gradients(config, "plain"), networks=(PlainGenerator, PlainDiscriminator))
    plain = next(updates(defined, "plain"))
    assert_same(fast, plain)


@pytest.mark.parametrize("loss", FACTORS["loss"])
def test_generators_learn_from_discriminators_that_are_sure(loss: str) -> None:
    """For fakes whose slope in the discriminators' loss is 0 (hinge), or nearly so."""
    config = tiny_config(loss=loss, r1_weight=0.0, ema_decay=0.0, score="separate")
    model = model_of(config, bias=-12.0)
    fast, plain = (next(updates(model, gradients)) for gradients in ("fast", "plain"))
    assert max(plain.mean_logits[f"fake_logits/level_{level}"] for level in (1, 2)) < -8
    # With the minimax loss the generator's gradients vanish, a known flaw.
    assert (max(np.linalg.norm(gradient) for gradient in plain.generator_gradients) > 1e-3) == (loss != "minimax")
    assert_same(fast, plain)


def test_penalties_are_in_the_gradients() -> None:
    """Otherwise the comparisons above would be weak."""
    row = {name: values[0] for name, values in FACTORS.items()}
    norms = {}
    for r1 in FACTORS["r1"]:
        (step,) = updates(model_of(config_of({**row, "r1": r1})), "plain")
        norms[r1] = np.sqrt(sum(np.linalg.norm(gradient) ** 2 for gradient in step.discriminator_gradients))
    assert norms["every step"] > 1.3 * norms["off"]
    assert norms["lazy"] > 1.3 * norms["every step"]


class Tanh(Discriminator):
    """A discriminator whose logits are not homogeneous in its inputs."""

    def call(self, videos: Any, labels: Any = None, weights: Any = None, recompute: bool = False) -> list[tf.Tensor]:
        return [tf.tanh(logits) for logits in super().call(videos, labels, weights, recompute)]


class Constant(Discriminator):
    """Adds a bias that is not among the weights."""

    def call(self, videos: Any, labels: Any = None, weights: Any = None, recompute: bool = False) -> list[tf.Tensor]:
        return [logits + 1.0 for logits in super().call(videos, labels, weights, recompute)]


class Mixing(Discriminator):
    """Subtracts the mean over the batch, like a batch norm."""

    def call(self, videos: Any, labels: Any = None, weights: Any = None, recompute: bool = False) -> list[tf.Tensor]:
        return [logits - tf.reduce_mean(logits) for logits in super().call(videos, labels, weights, recompute)]


class Deaf(Discriminator):
    """Computes with its own weights, ignoring those passed in."""

    def call(self, videos: Any, labels: Any = None, weights: Any = None, recompute: bool = False) -> list[tf.Tensor]:
        return super().call(videos, labels)


@pytest.mark.parametrize("kind", [Tanh, Constant, Mixing, Deaf])
def test_discriminators_that_break_the_contract_are_refused(kind: type[Discriminator]) -> None:
    config = tiny_config({"conditional": True, "num_classes": CLASSES})
    networks = Generator(config.model), kind(config.model)
    with pytest.raises(
        ConfigError, match=r"^--gradients=fast: .* level 1 is not homogeneous .* use --gradients=plain$"
    ):
        TGANv2(*networks, config)
    TGANv2(*networks, with_gradients(config, "plain"))


@pytest.mark.parametrize("precision", [PRECISIONS[0], PRECISIONS[2]])
def test_checking_the_contract_changes_nothing(precision: str) -> None:
    config = tiny_config({"conditional": True, "num_classes": CLASSES, "batch_strides": (2,)}).model
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        discriminator = Discriminator(config)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    before = discriminator.get_weights()
    numbers = []
    for check in (False, True):
        tf.keras.utils.set_random_seed(5)
        if check:
            check_discriminator(discriminator, config)
        numbers.append((float(tf.random.uniform([])), np.random.random_sample()))
    assert numbers[0] == numbers[1]
    for weight, value in zip(discriminator.get_weights(), before):
        np.testing.assert_array_equal(weight, value)
