"""Estimates the cost of a training step, in multiply-adds and memory, from the graph of the networks.

No step is run and no weight allocated, except by `measure_throughput`, which runs a convolution for a second.

docs/cost.md compares the estimates with measurements on two CPU cores (AMD EPYC, TensorFlow 2.15.1, float32).
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.pyramid import PyramidSpec
from tganv2_tf.systems import SystemConfig, model_class
from tganv2_tf.training.graph_cost import multiply_adds, peak_bytes

FLOAT_BYTES = 4
# Memory of a training process without weights: Python, TensorFlow, the traced graph and its executor.
PROCESS_BYTES = 930 * 2**20
# Allocated bytes per byte counted by `graph_cost.peak_bytes`: work space, concurrent operations, heap fragmentation.
MEMORY_OVERHEAD = 1.2
# Temporary bytes of Adam's updates per byte of trained weights.
UPDATE_OVERHEAD = 1.6
# Speed of a whole step, with norms, activations and small operations, relative to that of a single convolution.
EFFICIENCY = 0.4
BLOCKS_IN_FLIGHT = 3  # the current block, the next one, and the data from which that is assembled
BATCHES_IN_FLIGHT = 4  # batches that the input pipeline computes or buffers at one time
THROUGHPUT_SHAPES = {"CPU": ((2, 8, 16, 16, 64), 64), "GPU": ((16, 8, 32, 32, 128), 128)}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Cost of one training step on one replica.

    Attributes:
      multiply_adds: Multiply-adds of convolutions and matrix products, forward and backward; with lazy regularization,
        the mean over steps.
      state_bytes: Permanent memory and checkpoint size: networks, averaged generator and Adam's moments.
      trained_bytes: Size of the trainable weights, and of their gradients.
      activation_bytes: Peak memory of activations and gradients.
    """

    multiply_adds: float
    state_bytes: int
    trained_bytes: int
    activation_bytes: int

    @property
    def device_bytes(self) -> int:
        """Memory of the step on its device, without `PROCESS_BYTES`."""
        return self.state_bytes + round(MEMORY_OVERHEAD * self.activation_bytes + UPDATE_OVERHEAD * self.trained_bytes)

    def seconds(self, throughput: float) -> float:
        """Returns the duration of the step, given the device's multiply-adds per second (`measure_throughput`)."""
        return self.multiply_adds / (EFFICIENCY * throughput)


def placeholders(config: SystemConfig, batch_size: int, spec: PyramidSpec) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Creates placeholders of latents and of a pyramid of clips, float32, in the current graph."""
    make = tf.compat.v1.placeholder
    sizes = [(level.batch_size(batch_size), level.frames, level.size, level.size, 3) for level in spec.levels]
    return make(tf.float32, [batch_size, config.z_dim]), [make(tf.float32, size) for size in sizes]


def step_cost(config: Config, batch_size: int) -> StepCost:
    """Estimates the cost of one training step: losses, penalty and gradients of both networks.

    The generator's gradients are computed in the first of `n_dis` discriminator updates. Power iterations, optimisers
    and averaging of the generator are not counted, because they are small.

    Args:
      config: Configuration of the run. A conditional model needs its number of classes.
      batch_size: N_1 of the replica.
    """
    # No Python branch depends on a tensor; without AutoGraph the graph is built in half the time.
    return tf.autograph.experimental.do_not_convert(_step_cost)(config, batch_size)


def _step_cost(config: Config, batch_size: int) -> StepCost:
    train = config.train
    parts, every = train.gradient_accumulation_steps, train.r1_every_steps if train.r1_weight else 0
    # One microbatch, because they run sequentially. No averaging: it would copy the values of weights.
    alone = dataclasses.replace(train, ema_decay=0.0, gradient_accumulation_steps=1, r1_every_steps=1)
    no_penalty: dict[str, Any] = {"r1_weight": 0.0, "penalize_fakes": False}
    step = dataclasses.replace(config, train=alone if every else dataclasses.replace(alone, **no_penalty))
    products, activations, networks = _traced(step, batch_size // parts)
    if every > 1:  # the graph has a branch with the penalty and one without
        without = dataclasses.replace(step, train=dataclasses.replace(alone, **no_penalty))
        rest = _traced(without, batch_size // parts)[0]
        products += (every - 1) * (rest - products) / every
    trained = [variable for network in networks for variable in network.trainable_variables]
    kept = [*(variable for network in networks for variable in network.variables), *trained, *trained]
    if train.ema_decay:
        kept += networks[0].variables
    kept_bytes, trained_bytes = sum(map(_bytes, kept)), sum(map(_bytes, trained))
    if parts > 1:
        activations += trained_bytes  # the sum of gradients so far
    return StepCost(parts * products, kept_bytes, trained_bytes, activations)


def _traced(config: Config, batch_size: int) -> tuple[float, int, list[tf.keras.Model]]:
    """Returns multiply-adds and activation bytes of a step, and its networks, the generator first."""
    with tf.Graph().as_default():
        model = model_class(config.system).create(config)
        _, real_videos = placeholders(config.model, batch_size, config.model.pyramid)
        groups = model.traced_gradients(real_videos)
        products = sum(times * multiply_adds(gradients) for gradients, times in groups if times)
        networks = model.networks
        return products, peak_bytes(groups[0][0]), [networks.pop("generator"), *networks.values()]


def _bytes(tensor: tf.Tensor | tf.Variable) -> int:
    return FLOAT_BYTES * tensor.shape.num_elements()


def pipeline_bytes(config: Config, manifest: Manifest, batch_size: int) -> int:
    """Estimates the main memory of the input pipeline: shuffled blocks of JPEG clips, and decoded batches.

    Args:
      config: Configuration of the run.
      manifest: Manifest of its data set.
      batch_size: Sum of N_1 over the replicas of this machine.
    """
    frame = sum(shard.bytes for shard in manifest.shards) / max(1, manifest.num_frames)
    shuffled = BLOCKS_IN_FLIGHT * config.data.shuffle_buffer * config.model.num_frames * frame
    # Each batch is decoded and converted to float at full size before it is subsampled.
    values = batch_size * config.train.n_dis * config.model.num_frames * manifest.height * manifest.width * 3
    return round(shuffled + BATCHES_IN_FLIGHT * values * (1 + FLOAT_BYTES))


def measure_throughput(kind: str, dtype: str = "float32", seconds: float = 1.0) -> float:
    """Measures multiply-adds per second of a 3D convolution with its gradients, on the first device of a kind.

    Args:
      kind: CPU or GPU.
      dtype: Dtype of the computation.
      seconds: Duration of the measurement.
    """
    shape, channels = THROUGHPUT_SHAPES[kind]

    @tf.function(autograph=False)
    def work(clips: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch([clips, kernel])
            total = tf.reduce_sum(tf.nn.conv3d(clips, kernel, [1] * 5, "SAME") ** 2)
        return tf.add_n([tf.reduce_sum(gradient) for gradient in tape.gradient(total, [clips, kernel])])

    with tf.device(f"/{kind.lower()}:0"):
        clips, kernel = tf.ones(shape, dtype), tf.ones([3, 3, 3, shape[-1], channels], dtype)
        work(clips, kernel).numpy()  # traces
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            work(clips, kernel).numpy()  # waits
            rounds += 1
        elapsed = time.perf_counter() - start
    return 3 * math.prod(shape) * 27 * channels * rounds / elapsed
