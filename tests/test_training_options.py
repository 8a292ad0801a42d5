"""Lazy penalty, clipping, precision, XLA, several steps per execution: the same results or known differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ONE_LEVEL, PRECISIONS, SHALLOW, needs_float16, tiny_config
from tests.test_tganv2 import batch, reals, values
from tganv2_tf.errors import UserError
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.layers import BatchNorm
from tganv2_tf.models.optimizers import make_adam
from tganv2_tf.training import distribution
from tganv2_tf.training.distribution import check_half_precision, make_strategy
from tganv2_tf.training.loop import make_model


def shallow_config(**train):
    """Discriminators of one block: steps are computed alike for all models, and graphs and XLA take time."""
    return tiny_config(SHALLOW, **train)


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def weights(model):
    return flat(values([*model.generator.trainable_variables, *model.discriminator.trainable_variables]))


def steps_of(config, count=1, **compilation):
    """Returns losses and flat gradients of the first steps, always with the same weights, clips, latents and offsets.

    `compilation` selects a graph; eager execution is faster.
    """
    model = make_model(config)
    for _ in range(3):  # the singular vectors are initialized at random
        model.discriminator.update_singular_vectors()
    for optimizer in (model.generator_optimizer, model.discriminator_optimizer):
        if config.train.mixed_precision == "mixed_float16":
            optimizer._loss_scale._current_loss_scale.assign(2.0**8)  # the final scale of a typical run
    real, z = reals(config), sample_latents(4, 4, tf.constant([0, 1]))

    def compute():
        return model.losses_and_gradients(real, z, [tf.constant(1)])

    if compilation:
        compute = tf.function(compute, autograph=False, **compilation)  # its conversion would take longer than the rest
    results = []
    for step in range(count):
        model.step.assign(step)
        result = compute()
        losses = {name: float(value) for name, value in result.losses.items()}
        results.append((losses, flat(result.generator_gradients), flat(result.discriminator_gradients)))
    return results


@pytest.fixture(scope="module")
def plain():
    """Losses and gradients of one step in float32, including the penalty."""
    return steps_of(shallow_config(r1_weight=2.0))[0]


@pytest.fixture(scope="module")
def without_penalty():
    """The discriminator's gradients of the same step."""
    return steps_of(shallow_config(r1_weight=0.0))[0][2]


def assert_close(gradients, expected, tolerance):
    """Returns the relative error in the Euclidean norm of all of a network's gradients."""
    assert np.linalg.norm(gradients - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("precision", "tolerance", "how"),
    [
        ("float32", 1e-5, {"jit_compile": False}),
        pytest.param("mixed_float16", 0.05, {}, marks=needs_float16),
    ],
)
def test_a_lazy_penalty_is_stronger_and_rarer(plain, without_penalty, precision, tolerance, how):
    losses, _, with_penalty = plain
    results = steps_of(shallow_config(r1_weight=2.0, r1_every_steps=3, mixed_precision=precision), 4, **how)
    for step, (lazy_losses, _, gradient) in enumerate(results):
        penalty = 3 * (with_penalty - without_penalty) if step % 3 == 0 else 0
        assert_close(gradient, without_penalty + penalty, tolerance)
        # The reported value is the latest penalty, comparable for all intervals.
        assert lazy_losses["r1_penalty"] == pytest.approx(losses["r1_penalty"], rel=tolerance)


@pytest.mark.slow
def test_xla_computes_the_same_step(plain):
    losses, *gradients = plain
    compiled_losses, *compiled = steps_of(shallow_config(r1_weight=2.0), jit_compile=True)[0]
    assert compiled_losses == pytest.approx(losses, rel=1e-4)
    for ours, expected in zip(compiled, gradients):
        assert_close(ours, expected, 1e-3)


@needs_float16
def test_half_precision_agrees_with_float32(plain):
    # float16 has 11 bits of precision, and errors accumulate over some twenty layers, forward and backward.
    losses, *gradients = plain
    half_losses, *half_gradients = steps_of(shallow_config(r1_weight=2.0, mixed_precision="mixed_float16"))[0]
    assert half_losses == pytest.approx(losses, rel=0.01)
    for half, gradient in zip(half_gradients, gradients):
        assert not np.array_equal(half, gradient), "all was computed in float32"
        assert_close(half, gradient, 0.05)


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_weights_norms_logits_and_videos_stay_in_float32(precision):
    config = tiny_config(mixed_precision=precision, ema_decay=0.0)
    model = make_model(config)
    assert {v.dtype for v in model.variables if v.dtype.is_floating} == {tf.float32}
    videos = model.generator.pyramid(sample_latents(4, 4, tf.constant([0, 1])), frame_offsets=[1])
    logits = model.discriminator(reals(config))
    one_level = model.generator(sample_latents(4, 4, tf.constant([0, 1])))
    assert {t.dtype for t in [*videos, *logits, one_level]} == {tf.float32}
    norms = [layer for layer in model.generator.submodules if isinstance(layer, BatchNorm)]
    assert norms
    assert {moment.dtype for layer in norms for moment in layer.batch_moments} == {tf.float32}
    assert tf.keras.mixed_precision.global_policy().name == "float32", "the policy is the model's, not the process's"


def test_bfloat16_without_avx512(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(distribution.logging, "warning", said.append)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    config = tiny_config(mixed_precision="mixed_bfloat16")
    for name in ("AVX512_CORE_BF16", "AVX512_CORE", ""):
        monkeypatch.setattr(distribution.machine, "instruction_set", lambda name=name: name)
        check_half_precision(config)
    assert not said
    monkeypatch.setattr(distribution.machine, "instruction_set", lambda: "AVX2")
    check_half_precision(tiny_config())
    assert not said
    check_half_precision(config)
    assert "no AVX-512" in said[0]
    # TensorFlow would crash here with a segmentation fault.
    monkeypatch.setattr(distribution.machine, "instruction_set", lambda: "AVX512_CORE")
    for limit in ("AVX512_CORE", "ALL", "DEFAULT"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        check_half_precision(config)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    with pytest.raises(UserError, match="mixed_bfloat16 needs instructions that ONEDNN_MAX_CPU_ISA=avx2 disables"):
        check_half_precision(config)


def test_float16_on_a_processor_whose_instructions_are_hidden(monkeypatch):
    config = tiny_config(mixed_precision="mixed_float16")
    for has, limit, crashes in [
        ({"avx512_fp16"}, "AVX2", True),
        ({"avx512_fp16"}, "AVX512_CORE_BF16", True),
        ({"avx512_fp16"}, "AVX512_CORE_AMX", False),
        ({"avx512_fp16"}, "AVX512_CORE_FP16", False),
        ({"avx512_fp16"}, "", False),
        ({"avx512f"}, "AVX2", False),
    ]:
        monkeypatch.setattr(distribution.machine, "instructions", lambda has=has: has)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        if crashes:
            with pytest.raises(UserError, match=f"mixed_float16 needs instructions that ONEDNN_MAX_CPU_ISA={limit}"):
                check_half_precision(config)
        else:
            check_half_precision(config)


@needs_float16
def test_a_loss_scale_that_overflows_costs_the_step_and_is_halved():
    config = shallow_config(
        mixed_precision="mixed_float16", r1_weight=2.0, r1_every_steps=2, learning_rate_decay="none"
    )
    model = make_model(config)
    scale = model.discriminator_optimizer.loss_scale
    model.discriminator_optimizer._loss_scale._current_loss_scale.assign(2.0**60)
    before = values(model.discriminator.trainable_variables)
    model.train_step(batch(config))
    assert float(scale) == 2.0**15, "this one is from before"
    assert float(model.discriminator_optimizer.loss_scale) == 2.0**59
    for a, b in zip(before, values(model.discriminator.trainable_variables)):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(model.latest_penalty.numpy()), "or it would be shown until the next one"
    # Halved at each step, the scale reaches a value at which the gradients fit into 16 bits, and training continues.
    model.discriminator_optimizer._loss_scale._current_loss_scale.assign(2.0**8)
    model.train_step(batch(config))
    assert float(model.discriminator_optimizer.loss_scale) == 2.0**8
    assert any((a != b).any() for a, b in zip(before, values(model.discriminator.trainable_variables)))
    assert np.isfinite(weights(model)).all()


def test_gradients_are_clipped_by_their_norm_over_all_variables():
    optimizer = make_adam(tiny_config(gradient_clip_norm=1.0, adam_beta2=0.9).train, 1e-3)
    variables = [tf.Variable([0.0, 0.0]), tf.Variable([0.0])]
    optimizer.build(variables)
    optimizer.apply_gradients(zip([tf.constant([3.0, 0.0]), tf.constant([4.0])], variables))
    # Norm 5, so (0.6, 0, 0.8); the second moment starts with 0.1 of the squares.
    second_moments = [v.numpy() for v in optimizer.variables if v.name.startswith("v/")]
    np.testing.assert_allclose(flat(second_moments), [0.036, 0.0, 0.064], rtol=1e-5)


RATES: dict[str, Any] = {"generator_learning_rate": 0.1, "discriminator_learning_rate": 0.1}


def fitted(strategy, **changes):
    """Returns the weights after four steps of `fit`, where Keras compiles and repeats a step."""
    # Adam's steps have the size of the rate for any gradient. With a large epsilon they grow with it, so that rounding
    # does not decide their sign.
    config = tiny_config(ONE_LEVEL, r1_weight=0.0, adam_epsilon=1.0, learning_rate_decay="none", **RATES, **changes)
    with strategy.scope():
        model = make_model(config)
    calls = []
    count = tf.keras.callbacks.LambdaCallback(on_batch_end=lambda number, logs: calls.append(number))
    levels, labels, used = batch(config)
    data = tf.data.Dataset.from_tensors((tuple(levels), labels, used)).repeat()
    model.fit(data, steps_per_epoch=4, verbose=0, callbacks=[count])
    assert int(model.step.numpy()) == 4
    assert len(calls) == 4 // config.train.steps_per_execution
    return weights(model)


@pytest.fixture(scope="module")
def four_plain_steps():
    return fitted(tf.distribute.MirroredStrategy(["/cpu:0"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"distribution": "one_device"},
        {"steps_per_execution": 2, **{f"{what}_every_steps": 2 for what in ("log", "preview", "checkpoint")}},
    ],
    ids=lambda changes: "+".join(changes)[:20],
)
def test_how_a_step_is_run_does_not_change_it(four_plain_steps, changes):
    if changes.get("distribution") == "one_device":
        strategy = make_strategy("one_device")
        assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    else:
        strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    before = weights(make_model(tiny_config(ONE_LEVEL)))
    after = fitted(strategy, **changes)
    moved = np.abs(four_plain_steps - before).max()
    assert moved > 1e-3
    np.testing.assert_allclose(after, four_plain_steps, atol=1e-3 * moved)
