"""Parity with the authors' Chainer implementation: its outputs for small networks, compared with ours with its weights.

tests/data contains its snapshots before and after one training step and intermediate values (float32, on a CPU), in two
sets: without and with adaptive batch reduction. Errors are relative to each array's largest magnitude.

Two numerical properties matter for close comparisons:
- NumPy added up the batch norms' moments sequentially. With exact sums the videos of the training step differ by up to
  4e-4, and one gradient by 4 %; hence `round_as_the_authors`.
- ReLU's derivative jumps at 0. Some inputs are so near to 0 that a different summation order, as on another processor
  or with another TensorFlow, can change their sign: see KINKS.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.authors_rounding import round_as_the_authors
from tganv2_tf.config import Config, DataConfig, TrainConfig
from tganv2_tf.interop.chainer import (
    discriminator_weights,
    generator_weights,
    load_discriminator,
    load_generator,
    read_snapshot,
)
from tganv2_tf.models.optimizers import make_adam
from tganv2_tf.models.tganv2 import TGANv2

DATA = pathlib.Path(__file__).parent / "data"
SETS = ("public", "public_batch")
LEARNING_RATE = 1e-4
# Inputs of ReLUs (outputs of the generator's batch norms) within 1.2e-5 of 0 that change a gradient by more than 4e-4
# of its largest value if their sign changes: their sign in the authors' run, by norm and position.
KINKS: dict[str, dict[str, dict[tuple[int, ...], float]]] = {
    "public": {
        "level1/up3/norm1": {(61, 0, 7, 2): 1, (31, 7, 9, 14): -1},
        "level1/up3/norm2": {
            (29, 14, 2, 6): 1,
            (41, 22, 3, 6): -1,
            (37, 2, 22, 4): -1,
            (13, 18, 15, 5): -1,
            (21, 16, 4, 4): 1,
            (59, 0, 18, 0): 1,
            (59, 18, 16, 6): -1,
        },
        "level1/rendering/norm": {(28, 23, 3, 6): 1},
        "level2/up1/norm2": {(30, 44, 14, 2): -1},
        "level3/up1/norm1": {(13, 23, 33, 0): -1},
        "level3/up1/norm2": {
            (15, 90, 67, 1): 1,
            (10, 95, 55, 1): -1,
            (9, 65, 87, 1): -1,
            (11, 74, 40, 1): -1,
            (10, 22, 91, 0): 1,
        },
        "level3/rendering/norm": {(2, 41, 77, 0): 1, (5, 65, 31, 0): 1},
        "level4/up1/norm2": {(4, 166, 76, 1): -1, (1, 186, 22, 0): -1, (6, 185, 161, 0): -1},
        "level4/rendering/norm": {(4, 26, 30, 0): -1, (6, 18, 142, 1): -1},
    },
    "public_batch": {
        "level1/up2/norm1": {(110, 4, 1, 23): -1},
        "level1/up3/norm1": {(46, 8, 5, 6): -1, (4, 4, 4, 3): 1},
        "level2/up1/norm1": {(5, 15, 2, 1): -1},
        "level4/rendering/norm": {(1, 176, 41, 0): 1},
    },
}


def error(ours: Any, theirs: np.ndarray) -> float:
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max())


def their_axes(videos: tf.Tensor) -> np.ndarray:
    """[N, T, H, W, C] -> [N, C, T, H, W]."""
    return videos.numpy().transpose(0, 4, 1, 2, 3)


def random_clips(seed: int, shape: np.ndarray) -> tf.Tensor:
    """Converts a level from the authors' layout, [N, C, T, H, W] -> [N, T, H, W, C]."""
    clips = np.random.RandomState(seed).uniform(-1, 1, tuple(shape)).astype(np.float32)
    return tf.constant(clips.transpose(0, 2, 3, 4, 1))


class Golden:
    """The numbers of a set, and a model with its weights."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers = read_snapshot(DATA / f"{name}_io.npz")
        strides = tuple(int(s) for s in self.numbers["subsample_batch"][1:])
        self.z = tf.constant(self.numbers["z"])
        generator = round_as_the_authors(load_generator(DATA / f"{name}_gen.npz", batch_strides=strides))
        discriminator = load_discriminator(DATA / f"{name}_dis.npz")
        num_clips = self.z.shape[0]
        train = TrainConfig(
            global_batch_size=num_clips,
            score="separate",
            r1_weight=float(self.numbers["lam"]) * num_clips,
            ema_decay=0.0,
        )
        model = dataclasses.replace(
            generator.config, discriminator_channels=discriminator.config.discriminator_channels
        )
        self.model = TGANv2(generator, discriminator, Config(model, DataConfig(), train))

    def fakes(self) -> Any:
        """The generator's part of the training step."""
        return self.model.generator.pyramid(self.z, frame_offsets=[int(b) for b in self.numbers["offsets"]])

    def step(self) -> Any:
        """Losses and gradients of the training step."""
        seed = int(self.numbers["real_seed"])
        reals = [random_clips(seed + i, shape) for i, shape in enumerate(self.numbers["real_shapes"])]
        return self.model.losses_and_gradients(reals, self.z, [int(b) for b in self.numbers["offsets"]])

    @functools.cached_property
    def first_step(self) -> Any:
        """`step` with the initial weights."""
        return self.step()

    def gradients(self, step: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Yields our and their value for every weight in a step, in our layout, by their names."""
        pairs, model, numbers = {}, self.model, self.numbers
        for network, gradients, weights, prefix in (
            (model.generator, step.generator_gradients, generator_weights(model.generator), "ggrad"),
            (model.discriminator, step.discriminator_gradients, discriminator_weights(model.discriminator), "dgrad"),
        ):
            ours = {id(v): gradient.numpy() for v, gradient in zip(network.trainable_variables, gradients)}
            names = [name for name, weight in weights.items() if weight.variable.trainable]
            assert len(names) == len(ours) == sum(name.startswith(f"{prefix}/") for name in numbers)
            for name in names:
                weight = weights[name]
                pairs[f"{prefix}/{name}"] = ours[id(weight.variable)], weight.from_chainer(numbers[f"{prefix}/{name}"])
        return pairs


@functools.cache
def golden(name: str) -> Golden:
    return Golden(name)


def is_bias_before_norm(name: str) -> bool:
    """Returns whether the exact gradient is zero: a per-channel constant, which the next batch norms remove."""
    return name.startswith("ggrad/block") and name.endswith("/b")


@pytest.fixture(params=SETS)
def numbers(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_inference(numbers, level):
    videos = their_axes(numbers.model.generator(numbers.z, level=level))[:, :, ::5, :: 2**level, :: 2**level]
    assert error(videos, numbers.numbers[f"infer_level{level}"]) <= 1e-4


def test_inference_of_more_frames_than_in_training(numbers):
    for num_frames in (24, tf.constant(24)):
        videos = their_axes(numbers.model.generator(numbers.z[:1], num_frames=num_frames))
        assert videos.shape == (1, 3, 24, 192, 192)
        assert error(videos[:, :, -1:, ::4, ::4], numbers.numbers["infer_24frames_last"]) <= 1e-4


def test_logits_of_full_clips(numbers):
    seed = int(numbers.numbers["real_seed"])
    clips = [random_clips(seed + 10 + i, shape) for i, shape in enumerate(numbers.numbers["dis_full_shapes"])]
    logits = tf.concat(numbers.model.discriminator(clips), 0)
    assert error(logits, numbers.numbers["dis_full_out"].reshape(-1)) <= 1e-4


def test_all_levels_of_a_training_step(numbers):
    fakes = numbers.fakes()
    for i, videos in enumerate(fakes):
        assert error(their_axes(videos)[..., :: 2**i, :: 2**i], numbers.numbers[f"fake{i}"]) <= 1e-4
    logits = tf.concat(numbers.model.discriminator(fakes), 0)[:, tf.newaxis]
    assert error(logits, numbers.numbers["y_fake"]) <= 1e-4


def test_logits_of_reals_where_axes_of_length_one_grow(numbers):
    seed = int(numbers.numbers["real_seed"])
    reals = [random_clips(seed + i, shape) for i, shape in enumerate(numbers.numbers["real_shapes"])]
    logits = tf.concat(numbers.model.discriminator(reals), 0)[:, tf.newaxis]
    assert error(logits, numbers.numbers["y_real"]) <= 1e-4


def test_losses_and_penalty(numbers):
    losses = numbers.first_step.losses
    for name, theirs in (("generator_loss", "gen"), ("discriminator_loss", "dis"), ("r1_penalty", "gp")):
        assert error(losses[name], numbers.numbers[f"loss_{theirs}"]) <= 1e-4, name


def put_kinks_on_their_side(numbers: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves the ReLU inputs of KINKS by 4e-5, to their sign in the authors' run."""
    levels: list[Any] = numbers.model.generator.generator_levels
    for level, layer in enumerate(levels, start=1):
        blocks = {block.name: block for block in [*layer.blocks, layer.rendering]}
        for path, signs in KINKS[numbers.name].items():
            at_level, block, name = path.split("/")
            if at_level == f"level{level}":
                norm = getattr(blocks[block], name)
                monkeypatch.setattr(norm, "call", functools.partial(moved, norm.call, signs))


def moved(plain: Any, signs: dict[tuple[int, ...], float], inputs: tf.Tensor, **options: Any) -> tf.Tensor:
    outputs = plain(inputs, **options)
    values = [float(outputs[position]) for position in signs]
    assert all(abs(value) < 5e-5 for value in values), "they lie where rounding decides"
    return tf.tensor_scatter_nd_add(outputs, list(signs), [4e-5 * sign for sign in signs.values()])


def test_every_gradient(numbers, monkeypatch):
    put_kinks_on_their_side(numbers, monkeypatch)
    pairs = numbers.gradients(numbers.step())
    assert len(pairs) == 81 + 128
    errors = {name: error(*pair) for name, pair in pairs.items() if not is_bias_before_norm(name)}
    assert len(errors) == 81 - 18 + 128
    assert {name: e for name, e in errors.items() if e > 1e-3} == {}


def test_gradients_of_biases_that_a_batch_norm_takes_away_are_zero(numbers):
    pairs = numbers.gradients(numbers.first_step)
    biases = {name: np.abs(ours).max() for name, (ours, _) in pairs.items() if is_bias_before_norm(name)}
    assert len(biases) == 18
    assert {name: value for name, value in biases.items() if value >= 1e-5} == {}


def test_without_help_at_the_kinks_few_gradients_feel_them(numbers):
    pairs = numbers.gradients(numbers.first_step)
    errors = {name: error(*pair) for name, pair in pairs.items() if not is_bias_before_norm(name)}
    assert sum(e > 1e-3 for e in errors.values()) <= (6 if KINKS[numbers.name] else 0)
    assert max(errors.values()) <= 6e-3


@pytest.mark.parametrize("name", SETS)
def test_one_step_of_adam_and_of_the_running_statistics(name):
    numbers = Golden(name)  # a separate one, as its weights change
    model = numbers.model
    config = model.config
    assert (config.train.adam_beta1, config.train.adam_beta2, config.train.adam_epsilon) == (0.0, 0.9, 8e-8)
    model.compile(make_adam(config.train, LEARNING_RATE), make_adam(config.train, LEARNING_RATE))
    step = golden(name).first_step  # the weights are still the initial ones
    numbers.fakes()  # its moments update the statistics
    model.apply_gradients("generator", step.generator_gradients)
    model.generator.update_moving_statistics()
    model.apply_gradients("discriminator", step.discriminator_gradients)
    compared = total = 0
    for weights, file, prefix in (
        (generator_weights(model.generator), "gen", "ggrad"),
        (discriminator_weights(model.discriminator), "dis", "dgrad"),
    ):
        before, after = (read_snapshot(DATA / f"{name}_{file}{when}.npz") for when in ("", "_after"))
        for key, weight in weights.items():
            start = before[key].astype(np.float64)
            ours, theirs = weight.to_chainer(weight.variable.numpy()) - start, after[key] - start
            if not weight.variable.trainable:
                assert np.abs(ours - theirs).max() <= 5e-4 * np.abs(theirs).max(), key  # n and n - 1 differ by more
            elif not is_bias_before_norm(f"{prefix}/{key}"):
                large = np.abs(numbers.numbers[f"{prefix}/{key}"]) > 1e-5
                assert np.abs(ours - theirs)[large].max(initial=0.0) <= 0.01 * LEARNING_RATE, key
                compared += int(large.sum())
                total += large.size
    assert compared > 0.5 * total > 50_000, "most of the weights have gradients to speak of"
