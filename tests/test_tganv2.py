"""The training step: which variables change, by how much, and independently of the number of replicas."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ONE_LEVEL, SHALLOW, needs_bfloat16, needs_float16, tiny_config
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import latents_from_seeds, sample_latents
from tganv2_tf.models.spectral_norm import SpectralDense
from tganv2_tf.models.tganv2 import TGANv2
from tganv2_tf.subsampling import video_pyramid
from tganv2_tf.training.graph_cost import executed
from tganv2_tf.training.loop import make_model


def reals(config, batch_size=None, seed=0):
    batch_size = batch_size or config.train.global_batch_size
    clips = tf.random.stateless_uniform([batch_size, 4, 16, 16, 3], [seed, 1], -1, 1)
    return video_pyramid(clips, config.model.pyramid, tf.constant([seed, 2]))


def batch(config, **kwargs):
    """Returns a batch as `fit` receives it: levels and labels with a leading axis of n_dis, and the data position."""
    several = [reals(config, seed=i, **kwargs) for i in range(config.train.n_dis)]
    levels = [tf.stack(level) for level in zip(*several)]
    num_clips = levels[0].shape[1]
    labels = tf.stack([(i + tf.range(num_clips, dtype=tf.int64)) % 3 for i in range(config.train.n_dis)])
    return levels, labels, tf.constant([config.train.n_dis * num_clips], tf.int64)


def values(variables):
    return [variable.numpy() for variable in variables]


def moved(before, variables):
    return [not np.array_equal(a, b.numpy()) for a, b in zip(before, variables)]


def run_step(model, data):
    """Runs eagerly, since tracing takes several times as long; the test of the learning rate uses a graph."""
    return model.distribute_strategy.run(model.train_step, (data,))


@dataclasses.dataclass
class Stepped:
    """A model after its first step, the values before it by network, and the scalars of the step."""

    model: Any
    before: dict[str, list[np.ndarray]]
    scalars: dict[str, Any]


def parts_of(model):
    """Returns the variables by network and kind."""
    return {
        "generator": model.generator.trainable_variables,
        "discriminator": model.discriminator.trainable_variables,
        "average": model.ema_generator.trainable_variables,
        "statistics": model.generator.non_trainable_variables,
        "singular vectors": model.discriminator.non_trainable_variables,
        "whole average": model.ema_generator.variables,
    }


@pytest.fixture(scope="module", params=["non_saturating", "hinge"])
def stepped(request):
    rates: dict[str, Any] = {"discriminator_learning_rate": 1e-3, "learning_rate_decay": "none"}
    model = make_model(tiny_config(loss=request.param, r1_weight=1.0, ema_decay=0.999, **rates))
    before = {name: values(part) for name, part in parts_of(model).items()}
    return Stepped(model, before, run_step(model, batch(model.config)))


def test_a_step_moves_both_networks_their_averages_and_their_statistics(stepped):
    for name, part in parts_of(stepped.model).items():
        share = np.mean(moved(stepped.before[name], part))
        assert share > 0.9, f"{name}: only {share:.0%} of the variables moved"
    assert int(stepped.model.step) == 1
    assert {"generator_loss", "discriminator_loss", "r1_penalty", "real_logits/level_2"} <= set(stepped.scalars)
    assert all(np.isfinite(float(value)) for value in stepped.scalars.values())


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_each_optimiser_moves_only_its_own_network(network):
    rates: dict[str, Any] = {
        "generator_learning_rate": 0.0,
        "discriminator_learning_rate": 0.0,
        f"{network}_learning_rate": 1e-3,
    }
    config = tiny_config(ONE_LEVEL, **rates, ema_decay=0.0, r1_weight=0.0)
    model = make_model(config)
    parts = {"generator": model.generator.trainable_variables, "discriminator": model.discriminator.trainable_variables}
    before = {name: values(part) for name, part in parts.items()}
    run_step(model, batch(config))
    for name, part in parts.items():
        assert any(moved(before[name], part)) == (name == network)


def test_the_first_adam_step_has_the_size_of_the_learning_rate(stepped):
    # With beta1 = 0 the bias-corrected first step is rate * g / (|g| + eps / sqrt(1 - beta2)): rate where |g| is large.
    kernel = stepped.model.discriminator.level_discriminators[0].linear.kernel
    (place,) = (i for i, v in enumerate(stepped.model.discriminator.trainable_variables) if v is kernel)
    before = stepped.before["discriminator"][place]
    np.testing.assert_allclose(np.abs(kernel.numpy() - before), 1e-3, rtol=1e-2)


def test_the_learning_rate_falls_linearly_to_zero():
    rates: dict[str, Any] = {"generator_learning_rate": 1e-3, "discriminator_learning_rate": 2e-3}
    config = tiny_config(ONE_LEVEL, train_steps=4, n_dis=2, r1_weight=0.0, **rates)
    model = make_model(config)
    step = tf.function(lambda data: model.distribute_strategy.run(model.train_step, (data,)), autograph=False)
    for i in range(4):
        step(batch(config))  # Keras reports the rate of the latest update; a step has two of the discriminator
        assert float(model.generator_optimizer.learning_rate) == pytest.approx(1e-3 * (1 - i / 4))
        assert float(model.discriminator_optimizer.learning_rate) == pytest.approx(2e-3 * (1 - (2 * i + 1) / 8))
    assert (int(model.generator_optimizer.iterations), int(model.discriminator_optimizer.iterations)) == (4, 8)


def linear_model(config):
    """Discriminators with logit w * sum(x), a known gradient, and a bias of 0; one weight per level."""

    class Linear(Discriminator):
        def __init__(self):
            tf.keras.Model.__init__(self)
            self.w = [SpectralDense(1, tf.keras.initializers.Constant(w), False) for w in (0.1, 0.2)]
            self([tf.zeros([1] * 5)] * 2)

        def effective_weights(self, lengths=None):
            return [w.effective_weights(lengths and ()) for w in self.w]

        def cast_weights(self, weights):
            return weights

        def call(self, videos, labels=None, weights=(None, None), recompute=False):
            sums = [tf.reduce_sum(video, [1, 2, 3, 4])[:, tf.newaxis] for video in videos]
            return [w(total, weights=given)[:, 0] for w, total, given in zip(self.w, sums, weights)]

    return TGANv2(Generator(config.model), Linear(), config)


@pytest.mark.parametrize("gradients", ["fast", "plain"])
def test_r1_by_hand(gradients):
    config = tiny_config(r1_weight=3.0, r1_level_factor=0.5, gradients=gradients)
    model = linear_model(config)
    penalty = model.losses_and_gradients(reals(config), tf.zeros([4, 4]), [1]).losses["r1_penalty"]
    # d D_l / d x = w_l everywhere: level 1 has 4 clips of 4*8*8*3 values, level 2 has 2 clips of 2*16*16*3.
    squares = 3.0 * 4 * 768 * 0.1**2 + 1.5 * 2 * 1536 * 0.2**2
    assert float(penalty) == pytest.approx(squares / 4, rel=1e-5)


@pytest.mark.parametrize("gradients", ["fast", "plain"])
@pytest.mark.parametrize("score", ["sum", "separate"])
def test_losses_and_gradients_by_hand(score, gradients):
    config = tiny_config(score=score, r1_weight=3.0, r1_level_factor=0.5, gradients=gradients)
    model = linear_model(config)
    real, z = reals(config), sample_latents(4, 4, tf.constant([0, 1]))
    before = values(model.variables)
    step = model.losses_and_gradients(real, z, [1])
    assert not any(moved(before, model.variables)), "nothing is updated"
    fake = model.generator.pyramid(z, frame_offsets=[1])
    sums = [[video.numpy().sum((1, 2, 3, 4)) for video in videos] for videos in (real, fake)]
    softplus = lambda x: np.logaddexp(0, x)  # noqa: E731

    def scores(parts):
        if score == "separate":
            return np.concatenate([0.1 * parts[0], 0.2 * parts[1]])
        total = 0.1 * parts[0]
        total[::2] += 0.2 * parts[1]
        return total

    real_scores, fake_scores = scores(sums[0]), scores(sums[1])
    discriminator_loss = np.mean(softplus(-real_scores) + softplus(fake_scores))
    assert float(step.losses["generator_loss"]) == pytest.approx(np.mean(softplus(-fake_scores)), rel=1e-4)
    assert float(step.losses["discriminator_loss"]) == pytest.approx(discriminator_loss, rel=1e-4)
    # The contribution of the penalty to the gradient: 2 * w_l / N_1 * weight * (number of values).
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    slopes = [-sigmoid(-real_scores), sigmoid(fake_scores)]
    first, second = (slice(0, 4), slice(4, 6)) if score == "separate" else (slice(0, 4), slice(0, 4, 2))
    for level, scored, penalty in ((0, first, 3 * 0.1 * 4 * 768), (1, second, 1.5 * 0.2 * 2 * 1536)):
        adversarial = sum((slope[scored] * parts[level]).sum() for slope, parts in zip(slopes, sums)) / len(real_scores)
        assert step.discriminator_gradients[2 * level].numpy().item() == pytest.approx(
            adversarial + 2 * penalty / 4, rel=1e-3
        )


@pytest.mark.parametrize(
    ("level", "shape", "z", "message"),
    [
        (1, [2, 2, 8, 8, 3], [4, 4], r"level 2 have shape \(2, 2, 8, 8, 3\); expected \(2, 2, 16, 16, 3\) for z of"),
        (0, [4, 2, 8, 8, 3], [4, 4], r"level 1 have shape \(4, 2, 8, 8, 3\); expected \(4, 4, 8, 8, 3\)"),
        (1, [4, 2, 16, 16, 3], [4, 4], r"level 2 have shape \(4, 2, 16, 16, 3\); expected \(2, 2, 16, 16, 3\)"),
        (0, [4, 4, 8, 8, 3], [4, 5], r"z has shape \(4, 5\); expected \[N, 4\]"),
    ],
)
def test_videos_and_latents_of_other_shapes_are_refused(level, shape, z, message):
    config = tiny_config()
    videos = reals(config)
    videos[level] = tf.zeros(shape)
    with pytest.raises(ValueError, match=message):
        linear_model(config).losses_and_gradients(videos, tf.zeros(z))


def test_with_two_discriminator_updates_the_generator_moves_with_the_first():
    one, two = (tiny_config(SHALLOW, ema_decay=0.0, r1_weight=0.0, n_dis=n_dis) for n_dis in (1, 2))
    models = [make_model(config) for config in (one, two)]
    initial = values(models[0].discriminator.trainable_variables)
    data = batch(two)
    run_step(models[0], tf.nest.map_structure(lambda several: several[:1], data))
    run_step(models[1], data)
    # The rates are equal at the first update of a step, so the generators agree, but the discriminators do not.
    for a, b in zip(*(values(m.generator.trainable_variables) for m in models)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    kernels = [np.concatenate([v.numpy().ravel() for v in m.discriminator.trainable_variables]) for m in models]
    start = np.concatenate([v.ravel() for v in initial])
    assert np.abs(kernels[1] - start).max() > 1.2 * np.abs(kernels[0] - start).max()


def test_average_starts_short_and_includes_statistics(stepped):
    model = stepped.model
    decay = (1 + 1) / (10 + 1)  # step 1 of (1 + t) / (10 + t), far below 0.999
    before = stepped.before["whole average"]
    for start, average, variable in zip(before, model.ema_generator.variables, model.generator.variables):
        np.testing.assert_allclose(average.numpy(), decay * start + (1 - decay) * variable.numpy(), atol=1e-6)
    assert any("moving_mean" in v.name for v in model.ema_generator.variables)


CONDITIONAL = {"conditional": True, "num_classes": 3, **SHALLOW}


@pytest.mark.parametrize("score", ["sum", "separate"])
def test_a_conditional_step_learns_from_the_labels(score):
    config = tiny_config(model=CONDITIONAL, score=score, r1_weight=1.0, ema_decay=0.9)
    model = make_model(config)
    (real,), z = [[level[0] for level in batch(config)[0]]], sample_latents(4, 4, tf.constant([0, 1]))
    step = model.losses_and_gradients(real, z, [1], labels=tf.constant([0, 1, 0, 1]))
    gradients = zip(model.generator.trainable_variables, step.generator_gradients)
    tables = [(v.name, g.numpy()) for v, g in gradients if v.shape.rank == 2 and v.shape[0] == 3]
    assert len(tables) == 2 * len(model.generator.batch_norms) + 1  # plus the class embedding of the first map
    for name, table in tables:
        assert np.abs(table[:2]).max() > 0, f"{name}: the classes of the batch have gradients"
        assert (table[2] == 0).all(), f"{name}: and the one that is not in it has none"
    before = values(model.discriminator.trainable_variables)
    scalars = run_step(model, batch(config))
    assert np.mean(moved(before, model.discriminator.trainable_variables)) > 0.9
    assert all(np.isfinite(float(value)) for value in scalars.values())


def test_discriminators_see_reals_and_fakes_augmented(monkeypatch):
    config = tiny_config(diffaugment="cutout,color", r1_weight=1.0)
    model = linear_model(config)
    real, z, seed = reals(config), sample_latents(4, 4, tf.constant([0, 1])), tf.constant([3, 4])
    calls = []

    def halve(videos, policy, batch_strides, seed):
        calls.append((policy, batch_strides, tuple(seed.numpy())))
        return [video / 2 for video in videos]

    monkeypatch.setattr("tganv2_tf.models.objective.diffaugment", halve)
    plain = model.losses_and_gradients(real, z, [1])
    assert not calls, "without a seed"
    step = model.losses_and_gradients(real, z, [1], augmentation_seed=seed)
    assert [call[:2] for call in calls] == [(("cutout", "color"), (2,))] * 2
    assert calls[0][2] != calls[1][2], "reals and fakes are changed each in their own way"
    # Logits are linear in these discriminators, and so is the generator's gradient through them.
    for name, logit in plain.mean_logits.items():
        np.testing.assert_allclose(step.mean_logits[name], logit / 2, rtol=1e-4)
    assert sum(float(tf.norm(gradient)) for gradient in step.generator_gradients) > 0
    # The penalty is computed on the discriminators' actual inputs, where the gradient is unchanged.
    np.testing.assert_allclose(step.losses["r1_penalty"], plain.losses["r1_penalty"], rtol=1e-5)


@pytest.mark.parametrize("score", ["sum", "separate"])
def test_accumulated_gradients_are_means_over_the_parts(score):
    config = tiny_config(
        model=CONDITIONAL, global_batch_size=8, r1_weight=2.0, score=score, gradient_accumulation_steps=2
    )
    whole = make_model(config)
    real, z, labels = reals(config), sample_latents(8, 4, tf.constant([0, 1])), tf.range(8) % 3
    accumulated = whole.losses_and_gradients(real, z, [1], labels)
    moments = [moment.numpy() for norm in whole.generator.batch_norms for moment in norm.batch_moments]
    halves, half_moments = [], []
    single = make_model(tiny_config(model=CONDITIONAL, global_batch_size=4, r1_weight=2.0, score=score))
    for part in range(2):
        some = slice(4 * part, 4 * part + 4), slice(2 * part, 2 * part + 2)  # of level 1 and of level 2
        halves.append(
            single.losses_and_gradients([level[s] for level, s in zip(real, some)], z[some[0]], [1], labels[some[0]])
        )
        half_moments.append([m.numpy() for norm in single.generator.batch_norms for m in norm.batch_moments])
    expected = tf.nest.map_structure(lambda a, b: (a + b) / 2, *halves)
    for ours, theirs in zip(tf.nest.flatten(accumulated), tf.nest.flatten(expected)):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))
    for ours, first, second in zip(moments, *half_moments):
        np.testing.assert_allclose(ours, (first + second) / 2, rtol=1e-4, atol=1e-5)


def test_parts_of_a_batch_are_worked_through_one_after_the_other():
    config = tiny_config(SHALLOW, global_batch_size=8, gradient_accumulation_steps=2)
    model = make_model(config)
    z = sample_latents(8, 4, tf.constant([0, 1]))
    step = tf.function(lambda *real: model.losses_and_gradients(real, z, [1]), autograph=False)
    graph = step.get_concrete_function(*reals(config)).graph
    needed = executed(graph.outputs)  # without operations that are traced only for differentiation
    convolutions = [op for op in graph.get_operations() if op.type == "Conv3D" and op in needed]

    backward = {op for op in graph.get_operations() if op.type == "Conv3DBackpropFilterV2"}
    late = set()  # operations that must run after one of these; operations are listed after their inputs
    for op in graph.get_operations():
        if any(other in backward or other in late for other in (*(t.op for t in op.inputs), *op.control_inputs)):
            late.add(op)
    # Each part has three forward passes: reals, their penalty, and fakes, which come after the gradients of the reals.
    # All of the second part comes after the first part's gradients.
    waiting = [op in late for op in convolutions]
    assert sum(waiting) == len(waiting) * 4 / 6


def checkpointed_steps(*switches, **train):
    """Returns steps, and the statistics after them, of equal models with and without `recompute`."""
    config = tiny_config(model=CONDITIONAL, diffaugment="color,cutout", r1_weight=0.0, **train)
    real, z, labels = reals(config), sample_latents(4, 4, tf.constant([0, 1])), tf.range(4) % 3
    for recompute in switches:
        model = make_model(dataclasses.replace(config, train=dataclasses.replace(config.train, recompute=recompute)))
        step = model.losses_and_gradients(real, z, [1], labels, tf.constant([2, 3]))
        model.generator.update_moving_statistics()
        yield [*tf.nest.flatten(step), *model.generator.non_trainable_variables]


def test_recomputed_gradients_are_the_same():
    for kept, again in zip(*checkpointed_steps(False, True)):
        np.testing.assert_allclose(again, kept, atol=1e-5 * max(1, np.abs(kept).max()))


@needs_bfloat16
def test_recomputed_gradients_in_bfloat16_are_float32_and_finite():
    for values in checkpointed_steps(True, mixed_precision="mixed_bfloat16"):
        assert all(value.dtype == tf.float32 and np.isfinite(value).all() for value in values)


@pytest.mark.parametrize("recompute", [False, True])
def test_two_replicas_give_the_gradients_of_one(two_replicas, recompute):
    """Two replicas in a graph in one case, which takes long to trace; all else eagerly."""
    config = tiny_config(SHALLOW, global_batch_size=8, r1_weight=2.0, recompute=recompute)
    real, z = reals(config, 8), sample_latents(8, 4, tf.constant([5, 6]))

    def gradients(strategy):
        with strategy.scope():
            model = make_model(config)
        replicas = strategy.num_replicas_in_sync

        def share(context):
            return [tf.split(whole, replicas)[context.replica_id_in_sync_group] for whole in (*real, z)]

        inputs = strategy.experimental_distribute_values_from_function(share)

        def step(inputs):
            result = model.losses_and_gradients(inputs[:-1], inputs[-1], [1])
            flat = [*result.losses.values(), *result.generator_gradients, *result.discriminator_gradients]
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, flat)

        def run():
            return strategy.run(step, (inputs,))

        outputs = tf.function(run, autograph=False)() if recompute and replicas > 1 else run()
        return [strategy.experimental_local_results(value)[0].numpy() for value in outputs]

    for alone, shared in zip(gradients(tf.distribute.MirroredStrategy(["/cpu:0"])), gradients(two_replicas)):
        np.testing.assert_allclose(shared, alone, atol=2e-4 * max(np.abs(alone).max(), 0.1))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": CONDITIONAL, "gradient_accumulation_steps": 2},
        pytest.param(
            {"model": SHALLOW, "mixed_precision": "mixed_float16", "r1_every_steps": 2, "gradient_clip_norm": 1.0},
            marks=needs_float16,
        ),
    ],
    ids=["conditional, two parts", "float16"],
)
def test_two_replicas_stay_identical(two_replicas, changes):
    config, strategy = tiny_config(global_batch_size=8, **changes), two_replicas
    with strategy.scope():
        model = make_model(config)
    data = strategy.experimental_distribute_values_from_function(lambda context: batch(config, batch_size=4))
    run_step(model, data)
    for variable in [*model.generator.variables, *model.discriminator.variables, *model.ema_generator.variables]:
        first, second = (v.numpy() for v in strategy.experimental_local_results(variable))
        np.testing.assert_array_equal(first, second)
    assert int(model.step.numpy()) == 1


def test_replicas_draw_different_latents_and_the_same_offsets(two_replicas):
    with two_replicas.scope():
        model = make_model(tiny_config(SHALLOW, global_batch_size=8, ema_decay=0.0))
    outputs = tf.function(lambda: two_replicas.run(model.sample_noise, (0, 4)), autograph=False)()
    z, offsets = (two_replicas.experimental_local_results(value) for value in (outputs[0], outputs[1][0]))
    assert z[0].shape == (4, 4)
    assert np.abs(z[0] - z[1]).min() > 0
    assert int(offsets[0]) == int(offsets[1])


def test_the_same_seed_gives_the_same_step():
    results = []
    for _ in range(2):
        model = make_model(tiny_config(SHALLOW, seed=3))
        run_step(model, batch(model.config))
        results.append(values(model.generator.trainable_variables))
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_latents_belong_to_their_seeds():
    z = latents_from_seeds(tf.constant([3, 5, 9]), 6).numpy()
    np.testing.assert_array_equal(latents_from_seeds(tf.constant([9]), 6)[0], z[2])
    assert len({row.tobytes() for row in z}) == 3
    many = sample_latents(1000, 8, tf.constant([0, 0])).numpy()
    assert (many.min(), many.max()) == pytest.approx((-1, 1), abs=0.01)
    assert many.var() == pytest.approx(1 / 3, rel=0.05)  # the variance of U(-1, 1)
