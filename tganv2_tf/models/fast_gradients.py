"""The gradients of `objective.py` in fewer passes through the discriminators: `--gradients=fast`.

It requires two properties of the discriminators, which `check_discriminator` tests once when a model is built. Let
D_l(x, b) be the logits of a batch x if the biases of sample n are multiplied by a gain b_n. In training, b = 1.

1. D_l is homogeneous of degree one in (x, b): D_l(a x, a b) = a D_l(x, b) for a > 0. Convolutions, linear layers, ReLU,
   leaky ReLU, means and sums have this property; batch norm, sigmoid and tanh do not.
2. D_l does not mix samples: logit n depends only on clip n, its gain and the weights.

Reals: by Euler's theorem the logits are <x, dD/dx> + dD/db. The penalty needs the input gradients dD/dx too. Loss and
penalty are therefore functions of the input gradients, and one backward pass through these computes both. This takes
four passes (forward, input gradients, two for the weights) instead of six.

Fakes: the derivatives of the two networks' losses with respect to the logits differ by one factor per sample. One
backward pass computes both gradients: three passes instead of four.

With a relativistic loss, or a penalty on fakes, reals and fakes are processed together (`_joint_gradients`). A
penalized pass already contains the input gradients of fakes, so the generator needs no further discriminator pass.

Kernels are divided by their singular values once per step. Positions of kernels that only multiply padding are omitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple, TypeVar

import tensorflow as tf

from tganv2_tf.config import Config, ModelConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.models.discriminator import Discriminator, LevelWeights
from tganv2_tf.models.discriminator_passes import discriminator_pass, input_gradients
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.loss_scaling import LossScales, scale_loss
from tganv2_tf.models.losses import LOSSES, mean_loss, mean_losses
from tganv2_tf.models.objective import FAKES, REALS, augmented, generate
from tganv2_tf.models.step import StepGradients, StepInputs, accumulate, mean_logits

Result = TypeVar("Result")

# Largest accepted error of Euler's theorem, relative to the size of its terms.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03, "float16": 0.03}


class _RealGradients(NamedTuple):
    loss: tf.Tensor
    logits: list[tf.Tensor]
    r1_penalty: tf.Tensor
    weight_grads: list[LevelWeights]


def _loss_and_cotangents(
    loss: Callable[[tf.Tensor], tf.Tensor], logits: Sequence[tf.Tensor], config: Config
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the mean loss, and its derivatives with respect to the logits."""
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = mean_loss(loss, logits, config.model.batch_strides, config.train.score)
    return value, tape.gradient(value, logits)


def _real_gradients(
    discriminator: Discriminator,
    videos: Sequence[tf.Tensor],
    labels: tf.Tensor | None,
    weights: Sequence[LevelWeights],
    config: Config,
    r1_factor: float,
    loss_scale: tf.Tensor | None,
) -> _RealGradients:
    """Computes the loss of reals and the gradients of loss + r1_factor * penalty."""
    real = discriminator_pass(discriminator, videos, labels, weights, config, r1_factor, loss_scale)
    loss, cotangents = _loss_and_cotangents(LOSSES[config.train.loss].real, real.logits, config)
    return _RealGradients(loss, real.logits, real.penalty, real.gradients(cotangents)[0])


class _FakeGradients(NamedTuple):
    generator_loss: tf.Tensor
    discriminator_loss: tf.Tensor
    logits: list[tf.Tensor]
    generator_grads: list[tf.Tensor]
    weight_grads: list[LevelWeights]


def _fake_gradients(
    generator: Generator,
    discriminator: Discriminator,
    inputs: StepInputs,
    weights: Sequence[LevelWeights],
    config: Config,
    train_generator: bool,
    loss_scales: LossScales,
) -> _FakeGradients:
    """Computes both networks' losses on fakes and their gradients."""
    with tf.GradientTape() as generation:
        videos = augmented(generate(generator, inputs, config), FAKES, inputs, config)
    fake = discriminator_pass(
        discriminator, videos, inputs.labels, weights, config, 0.0, loss_scales.discriminator, config.train.recompute
    )
    loss = LOSSES[config.train.loss]
    generator_loss, for_generator = _loss_and_cotangents(loss.generator, fake.logits, config)
    fake_loss, for_discriminator = _loss_and_cotangents(loss.fake, fake.logits, config)
    if not train_generator:
        return _FakeGradients(generator_loss, fake_loss, fake.logits, [], fake.gradients(for_discriminator)[0])
    scaled = [scale_loss(slope, loss_scales.generator) for slope in for_generator]
    weight_grads, video_grads = fake.gradients(for_discriminator, scaled)
    generator_grads = generation.gradient(videos, generator.trainable_variables, video_grads)
    generator_grads = [tf.convert_to_tensor(gradient) for gradient in generator_grads]  # embeddings: sparse
    return _FakeGradients(generator_loss, fake_loss, fake.logits, generator_grads, weight_grads)


def _with_and_without_penalty(
    compute: Callable[[float], Result], config: Config, penalty_due: bool | tf.Tensor
) -> Result:
    """Calls `compute` with the factor of the penalty in this step (lazy regularization, arXiv 1912.04958)."""
    factor = float(config.train.r1_every_steps)
    if isinstance(penalty_due, bool):
        return compute(factor if penalty_due else 0.0)
    return tf.cond(penalty_due, lambda: compute(factor), lambda: compute(0.0))


class _JointGradients(NamedTuple):
    generator_loss: tf.Tensor
    discriminator_loss: tf.Tensor
    penalty: tf.Tensor
    real_logits: list[tf.Tensor]
    fake_logits: list[tf.Tensor]
    video_grads: list[tf.Tensor]
    weight_grads: list[tf.Tensor]


def _joint_gradients(
    discriminator: Discriminator,
    reals: Sequence[tf.Tensor],
    fakes: Sequence[tf.Tensor],
    labels: tf.Tensor | None,
    weights: Sequence[LevelWeights],
    config: Config,
    r1_factor: float,
    train_generator: bool,
    loss_scales: LossScales,
) -> _JointGradients:
    """Computes losses that depend on reals and fakes together, or a penalty on both, and their gradients."""
    train, loss_scale = config.train, loss_scales.discriminator
    r2_factor = r1_factor if train.penalize_fakes else 0.0
    real = discriminator_pass(discriminator, reals, labels, weights, config, r1_factor, loss_scale)
    fake = discriminator_pass(discriminator, fakes, labels, weights, config, r2_factor, loss_scale, train.recompute)
    scores = config.model.batch_strides, train.score
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real.logits, fake.logits])
        generator_loss, discriminator_loss = mean_losses(LOSSES[train.loss], real.logits, fake.logits, *scores)
    for_reals, for_fakes = tape.gradient(discriminator_loss, [real.logits, fake.logits])
    for_generator = None
    if train_generator:
        slopes = tape.gradient(generator_loss, fake.logits)
        for_generator = [scale_loss(slope, loss_scales.generator) for slope in slopes]
    real_grads, _ = real.gradients(for_reals)
    fake_grads, video_grads = fake.gradients(for_fakes, for_generator)
    return _JointGradients(
        generator_loss,
        discriminator_loss,
        real.penalty + fake.penalty,
        real.logits,
        fake.logits,
        video_grads,
        _sum(real_grads, fake_grads),
    )


def _sum(real_grads: list[LevelWeights], fake_grads: list[LevelWeights]) -> list[tf.Tensor]:
    """Returns the flat sums of the weights' gradients, float32."""
    pairs = zip(tf.nest.flatten(real_grads), tf.nest.flatten(fake_grads))
    return [tf.cast(a, tf.float32) + tf.cast(b, tf.float32) for a, b in pairs]


def _microbatch_gradients(
    generator: Generator,
    discriminator: Discriminator,
    inputs: StepInputs,
    weights: Sequence[LevelWeights],
    config: Config,
    penalty_due: bool | tf.Tensor,
    train_generator: bool,
    loss_scales: LossScales,
) -> StepGradients:
    """Computes the results of one microbatch. Discriminator gradients are with respect to the flattened `weights`."""
    reals = augmented(inputs.real_videos, REALS, inputs, config)

    if LOSSES[config.train.loss].relativistic or config.train.penalize_fakes:
        # Outside of a conditional branch, because batch norms keep their moments for later.
        with tf.GradientTape() as generation:
            fakes = augmented(generate(generator, inputs, config), FAKES, inputs, config)
        joint = _with_and_without_penalty(
            lambda factor: _joint_gradients(
                discriminator, reals, fakes, inputs.labels, weights, config, factor, train_generator, loss_scales
            ),
            config,
            penalty_due,
        )
        generator_grads = []
        if train_generator:
            generator_grads = generation.gradient(fakes, generator.trainable_variables, joint.video_grads)
        return StepGradients(
            {
                "generator_loss": joint.generator_loss,
                "discriminator_loss": joint.discriminator_loss,
                "r1_penalty": joint.penalty,
            },
            mean_logits(joint.real_logits, joint.fake_logits),
            [tf.convert_to_tensor(gradient) for gradient in generator_grads],  # embeddings: sparse
            joint.weight_grads,
        )

    def real_gradients(r1_factor: float) -> _RealGradients:
        return _real_gradients(
            discriminator, reals, inputs.labels, weights, config, r1_factor, loss_scales.discriminator
        )

    real = _with_and_without_penalty(real_gradients, config, penalty_due)
    # Fakes are processed after reals, so that only the activations of one of them are in memory.
    inputs = inputs.after(tf.nest.flatten(real.weight_grads))
    fake = _fake_gradients(generator, discriminator, inputs, weights, config, train_generator, loss_scales)
    losses = {
        "generator_loss": fake.generator_loss,
        "discriminator_loss": real.loss + fake.discriminator_loss,
        "r1_penalty": real.r1_penalty,
    }
    weight_grads = _sum(real.weight_grads, fake.weight_grads)
    return StepGradients(losses, mean_logits(real.logits, fake.logits), fake.generator_grads, weight_grads)


def fast_gradients(
    generator: Generator,
    discriminator: Discriminator,
    inputs: StepInputs,
    config: Config,
    penalty_due: bool | tf.Tensor,
    train_generator: bool,
    loss_scales: LossScales,
) -> StepGradients:
    """Computes the results of `plain_gradients` for discriminators with the properties above.

    Args:
      generator, discriminator: G and D_1..D_L.
      inputs: Inputs of all microbatches.
      config: Configuration of the run.
      penalty_due: Whether this step has a penalty. A tensor builds a graph with both branches.
      train_generator: Whether to compute the generator's gradients.
      loss_scales: Factors by which the returned gradients are multiplied.
    """
    with tf.GradientTape() as normalization:
        weights = discriminator.effective_weights([level.shape[1:4] for level in inputs.real_videos])
    cast_weights = discriminator.cast_weights(weights)

    def compute(microbatch: StepInputs) -> StepGradients:
        return _microbatch_gradients(
            generator, discriminator, microbatch, cast_weights, config, penalty_due, train_generator, loss_scales
        )

    total = accumulate(compute, inputs, config.train.gradient_accumulation_steps, generator.batch_norms)
    weight_grads, variables = total.discriminator_gradients, discriminator.trainable_variables
    return total._replace(discriminator_gradients=normalization.gradient(weights, variables, weight_grads))


def _random_weight(weight: tf.Tensor) -> tf.Tensor:
    """Returns a random weight of the same shape that preserves the scale of features (He initialisation)."""
    fan_in = weight.shape[:-1].num_elements() or 1
    return tf.random.stateless_normal(weight.shape, [1, 0], stddev=(2.0 / fan_in) ** 0.5)


def check_discriminator(discriminator: Discriminator, config: ModelConfig) -> None:
    """Tests the properties above on random clips (one frame, 2x2 pixels) with random weights.

    It does not change variables or the state of random generators. While a graph is being built it does nothing.

    Args:
      discriminator: D_1..D_L.
      config: Configuration of the model.
    Raises:
      ConfigError: The logits differ from the value given by Euler's theorem.
    """
    if not tf.executing_eagerly():
        return
    levels = config.pyramid.levels
    num_clips = 2 * levels[-1].clip_stride  # two clips on the last level, to detect mixing
    videos = [
        tf.random.stateless_uniform([level.batch_size(num_clips), 1, 2, 2, 3], [0, level.number], -1, 1)
        for level in levels
    ]
    labels = tf.range(num_clips) % config.num_classes if config.num_classes else None
    # Random weights: initial biases are zero, which would hide a bias that is not scaled, and initial singular values
    # have not been estimated by a power iteration yet.
    weights = discriminator.effective_weights([level.shape[1:4] for level in videos])
    weights = discriminator.cast_weights(tf.nest.map_structure(_random_weight, weights))
    logits, gradients = input_gradients(discriminator, videos, labels, weights)
    tolerance = TOLERANCE[discriminator.compute_dtype]
    for number, (level, logit) in enumerate(zip(videos, logits)):
        for_clips, for_biases = gradients[number], gradients[len(videos) + number]
        error, size = float("inf"), 1.0
        if for_clips is not None and for_biases is not None:
            terms = tf.reshape(level * for_clips, [level.shape[0], -1])
            error = tf.reduce_max(tf.abs(tf.reduce_sum(terms, 1) + for_biases - logit))
            size = tf.reduce_max(tf.reduce_sum(tf.abs(terms), 1) + tf.abs(for_biases) + tf.abs(logit))
        if not error <= tolerance * size:
            raise ConfigError(
                f"--gradients=fast: the discriminator of level {number + 1} is not homogeneous of degree one in videos "
                "and biases, or mixes samples; use --gradients=plain"
            )
