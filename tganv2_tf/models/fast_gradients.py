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
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.loss_scaling import LossScales, scale_loss
from tganv2_tf.models.losses import LOSSES, mean_loss, mean_losses
from tganv2_tf.models.objective import FAKES, REALS, augmented, generate, r1_penalty
from tganv2_tf.models.step import StepGradients, StepInputs, accumulate, mean_logits

Result = TypeVar("Result")

# Lower bound of |d loss / d logit|. It is far below float32 precision and keeps the ratio of two derivatives finite.
MIN_SLOPE = 1e-20
# Largest accepted error of Euler's theorem, relative to the size of its terms.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03, "float16": 0.03}


class _RealGradients(NamedTuple):
    loss: tf.Tensor
    logits: list[tf.Tensor]
    r1_penalty: tf.Tensor
    weight_grads: list[LevelWeights]


def _scale_samples(videos: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies videos [N, T, H, W, C] by one factor per sample, [N]."""
    return videos * tf.reshape(factors, [-1, 1, 1, 1, 1])


def _scale_biases(weights: LevelWeights, gains: tf.Tensor) -> LevelWeights:
    """Replaces each bias (weight of rank 1) by one bias per sample, [N, C]: b_n times the bias."""
    return tf.nest.map_structure(
        lambda weight: weight if weight.shape.rank > 1 else tf.cast(gains, weight.dtype)[:, tf.newaxis] * weight,
        weights,
    )


def _loss_and_cotangents(
    loss: Callable[[tf.Tensor], tf.Tensor], logits: Sequence[tf.Tensor], config: Config, scale: tf.Tensor | None
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the mean loss, and its derivatives with respect to the logits times the loss scale."""
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = mean_loss(loss, logits, config.model.batch_strides, config.train.score)
    return value, [scale_loss(cotangent, scale) for cotangent in tape.gradient(value, logits)]


def _input_gradients(
    discriminator: Discriminator,
    videos: Sequence[tf.Tensor],
    labels: tf.Tensor | None,
    weights: Sequence[LevelWeights],
    scale: float | tf.Tensor = 1.0,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns the logits, and `scale` times their gradients: dD_l/dx_l of all levels, then dD_l/db_l, [N_l]."""
    gains = [tf.ones(tf.shape(level)[:1]) for level in videos]
    with tf.GradientTape() as tape:
        tape.watch([videos, gains])
        scaled_weights = [_scale_biases(level, gain) for level, gain in zip(weights, gains)]
        logits = discriminator(videos, labels, weights=scaled_weights)
    return logits, tape.gradient(logits, [*videos, *gains], [scale * gain for gain in gains])


class _PlainPass:
    """Logits of clips without a penalty; see `_PenalizedPass`."""

    def __init__(
        self,
        discriminator: Discriminator,
        videos: Sequence[tf.Tensor],
        labels: tf.Tensor | None,
        weights: Sequence[LevelWeights],
        recompute: bool,
        loss_scale: tf.Tensor | None,
    ) -> None:
        self.videos, self.weights, self.loss_scale, self.penalty = videos, weights, loss_scale, tf.constant(0.0)
        with tf.GradientTape(persistent=True) as self.tape:
            self.tape.watch([weights, videos])
            self.logits = discriminator(videos, labels, weights=weights, recompute=recompute)

    def weight_gradients(self, cotangents: Sequence[tf.Tensor]) -> list[LevelWeights]:
        """Returns the loss-scaled gradients of the loss, given d loss / d logits."""
        scaled = [scale_loss(cotangent, self.loss_scale) for cotangent in cotangents]
        return self.tape.gradient(self.logits, self.weights, scaled)

    def video_gradients(self, cotangents: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the gradients of a loss with respect to the clips, given its derivatives by the logits."""
        return self.tape.gradient(self.logits, self.videos, cotangents)


class _PenalizedPass:
    """Logits of clips and their penalty, from which gradients follow once the losses are known.

    Attributes:
      logits: L tensors [N_l].
      input_gradients: dD_l/dx_l, shaped like the clips.
      penalty: The penalty on the input gradients, float32 scalar.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        videos: Sequence[tf.Tensor],
        labels: tf.Tensor | None,
        weights: Sequence[LevelWeights],
        config: Config,
        r1_factor: float,
        loss_scale: tf.Tensor | None,
    ) -> None:
        self.videos, self.weights = videos, weights
        # The square root of the loss scale, because these gradients are scaled twice.
        self.scale = 1.0 if loss_scale is None else tf.sqrt(loss_scale)
        with tf.GradientTape() as self.tape:
            self.tape.watch(weights)
            self.logits, self.scaled = _input_gradients(discriminator, videos, labels, weights, self.scale)
        self.input_gradients = [gradient / self.scale for gradient in self.scaled[: len(videos)]]
        num_clips, weight = tf.shape(self.logits[0])[0], config.train.r1_weight
        self.penalty = r1_penalty(self.input_gradients, num_clips, weight)
        self.penalty_slope = 2.0 * r1_factor * (weight / tf.cast(num_clips, tf.float32))

    def weight_gradients(self, cotangents: Sequence[tf.Tensor]) -> list[LevelWeights]:
        """Returns the loss-scaled gradients of loss + r1_factor * penalty, given d loss / d logits."""
        # d (loss + r1_factor * penalty) / d (dD/dx), with the logits as functions of dD/dx and dD/db.
        video_cotangents = [
            _scale_samples(level, cotangent) + self.penalty_slope * gradient
            for level, cotangent, gradient in zip(self.videos, cotangents, self.input_gradients)
        ]
        all_cotangents = [self.scale * cotangent for cotangent in (*video_cotangents, *cotangents)]
        return self.tape.gradient(self.scaled, self.weights, all_cotangents)

    def video_gradients(self, cotangents: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the gradients of a loss with respect to the clips, given its derivatives by the logits."""
        return [_scale_samples(*both) for both in zip(self.input_gradients, cotangents)]


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
    loss_of_scores = LOSSES[config.train.loss].real
    if not r1_factor:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = discriminator(videos, labels, weights=weights)
        loss, cotangents = _loss_and_cotangents(loss_of_scores, logits, config, loss_scale)
        return _RealGradients(loss, logits, tf.constant(0.0), tape.gradient(logits, weights, cotangents))
    penalized = _PenalizedPass(discriminator, videos, labels, weights, config, r1_factor, loss_scale)
    loss, cotangents = _loss_and_cotangents(loss_of_scores, penalized.logits, config, None)
    return _RealGradients(loss, penalized.logits, penalized.penalty, penalized.weight_gradients(cotangents))


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
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([weights, videos])
        logits = discriminator(videos, inputs.labels, weights=weights, recompute=config.train.recompute)
    loss = LOSSES[config.train.loss]
    generator_loss, generator_cotangents = _loss_and_cotangents(loss.generator, logits, config, loss_scales.generator)
    fake_loss, discriminator_cotangents = _loss_and_cotangents(loss.fake, logits, config, loss_scales.discriminator)
    if not train_generator:
        weight_grads = tape.gradient(logits, weights, discriminator_cotangents)
        return _FakeGradients(generator_loss, fake_loss, logits, [], weight_grads)
    if loss_scales.discriminator is not None:  # the ratio of the two slopes may overflow in float16
        weight_grads = tape.gradient(logits, weights, discriminator_cotangents)
        video_grads = tape.gradient(logits, videos, generator_cotangents)
    else:
        shared = [tf.where(tf.abs(slope) < MIN_SLOPE, MIN_SLOPE, slope) for slope in discriminator_cotangents]
        weight_grads, video_grads = tape.gradient(logits, (weights, videos), shared)
        video_grads = [
            _scale_samples(gradient, wanted / passed)
            for gradient, wanted, passed in zip(video_grads, generator_cotangents, shared)
        ]
    generator_grads = generation.gradient(videos, generator.trainable_variables, video_grads)
    generator_grads = [tf.convert_to_tensor(gradient) for gradient in generator_grads]  # embeddings: sparse
    return _FakeGradients(generator_loss, fake_loss, logits, generator_grads, weight_grads)


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
    loss_scales: LossScales,
) -> _JointGradients:
    """Computes losses that depend on reals and fakes together, or a penalty on both, and their gradients."""
    train = config.train

    def forward(videos: Sequence[tf.Tensor], penalized: bool) -> _PenalizedPass | _PlainPass:
        arguments = discriminator, videos, labels, weights
        if penalized and r1_factor:
            return _PenalizedPass(*arguments, config, r1_factor, loss_scales.discriminator)
        return _PlainPass(*arguments, train.recompute, loss_scales.discriminator)

    real, fake = forward(reals, True), forward(fakes, train.penalize_fakes)
    scores = config.model.batch_strides, train.score
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([real.logits, fake.logits])
        generator_loss, discriminator_loss = mean_losses(LOSSES[train.loss], real.logits, fake.logits, *scores)
    for_reals, for_fakes = tape.gradient(discriminator_loss, [real.logits, fake.logits])
    for_generator = [scale_loss(slope, loss_scales.generator) for slope in tape.gradient(generator_loss, fake.logits)]
    real_grads, fake_grads = (
        tf.nest.flatten(each.weight_gradients(slopes)) for each, slopes in ((real, for_reals), (fake, for_fakes))
    )
    return _JointGradients(
        generator_loss,
        discriminator_loss,
        real.penalty + fake.penalty,
        real.logits,
        fake.logits,
        fake.video_gradients(for_generator),
        [tf.cast(a, tf.float32) + tf.cast(b, tf.float32) for a, b in zip(real_grads, fake_grads)],
    )


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
                discriminator, reals, fakes, inputs.labels, weights, config, factor, loss_scales
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
    real_grads = tf.nest.flatten(real.weight_grads)
    # Fakes are processed after reals, so that only the activations of one of them are in memory.
    inputs = inputs.after(real_grads)
    fake = _fake_gradients(generator, discriminator, inputs, weights, config, train_generator, loss_scales)
    losses = {
        "generator_loss": fake.generator_loss,
        "discriminator_loss": real.loss + fake.discriminator_loss,
        "r1_penalty": real.r1_penalty,
    }
    fake_grads = tf.nest.flatten(fake.weight_grads)
    weight_grads = [tf.cast(a, tf.float32) + tf.cast(b, tf.float32) for a, b in zip(real_grads, fake_grads)]
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
    logits, gradients = _input_gradients(discriminator, videos, labels, weights)
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
