"""Training steps of the package, of its plain form and of PyTorch, as candidates of a benchmark.

PyTorch is compared with the package before it is timed. That the package computes what is defined is tested separately,
in tests/test_gradients.py.

TensorFlow and PyTorch never share a process, because their copies of oneDNN and OpenMP interfere. Weights, inputs and
results are exchanged as an .npz, with the authors' names and layout.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from benchmarks.speed.contest import in_new_process
from tganv2_tf.config import Config, ModelConfig
from tganv2_tf.errors import UserError
from tganv2_tf.runtime import lanes
from tganv2_tf.storage.files import read_npz

if TYPE_CHECKING:
    from tganv2_tf.models.tganv2 import TGANv2

TOLERANCE = 5e-3  # of the largest value; float32 sums in other orders, through a dozen batch norms, reach 1.3e-3
PRODUCT_SIDE = 4096  # rows and columns of the matrices of `products_step`
# Names of the PyTorch baseline, with the mode of `torch.compile`; empty = eager.
COMPILE_MODES = {"torch": "", "torch_compile": "default", "torch_max_autotune": "max-autotune"}
LOSSES = ("generator_loss", "discriminator_loss", "r1_penalty")


def require_torch() -> None:
    """Raises UserError if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"PyTorch is not installed: {lanes.install_command('peers')}, or omit torch")


def narrowed(model: ModelConfig, divisor: int) -> ModelConfig:
    """Returns the same network with the channels divided by `divisor`, but at least four where it has as many."""

    def fewer(channels: int) -> int:
        return min(channels, max(4, channels // divisor))

    return dataclasses.replace(
        model,
        lstm_channels=fewer(model.lstm_channels),
        up_channels=tuple(map(fewer, model.up_channels)),
        discriminator_channels=tuple(map(fewer, model.discriminator_channels)),
    )


def random_inputs(config: Config) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns reals of all levels, float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1), and latents, float32 [N_1, z_dim]."""
    random, clips = np.random.default_rng(0), config.train.global_batch_size
    reals = [
        random.uniform(-1, 1, (level.batch_size(clips), level.frames, level.size, level.size, 3)).astype(np.float32)
        for level in config.model.pyramid.levels
    ]
    return reals, random.uniform(-1, 1, (clips, config.model.z_dim)).astype(np.float32)


def tensorflow_model(config: Config, plain: bool = False) -> TGANv2:
    """Builds the model as `tganv2_tf.train` does, or `plain`: networks and gradients by their definitions."""
    from benchmarks.speed.plain_networks import plain_model
    from tganv2_tf.training.distribution import make_strategy
    from tganv2_tf.training.loop import make_model

    with make_strategy(config.train.distribution).scope():
        return (plain_model if plain else make_model)(config)


def tensorflow_step(implementation: str, config: Config) -> Callable[[], object]:
    """Returns the function that `fit` calls for each step of `tganv2_tf.train`, on a batch in memory."""
    step = step_in_memory(tensorflow_model(config, implementation == "plain"), config.train.global_batch_size)
    return lambda: {name: float(value) for name, value in step().items()}


def step_in_memory(model: TGANv2, clips: int) -> Callable[[], dict[str, Any]]:
    """Returns a step on a batch in memory, whose scalars need not be computed yet when it returns.

    Args:
      model: A compiled model.
      clips: Clips per replica.
    """
    import tensorflow as tf

    train = dataclasses.replace(model.config.train, global_batch_size=clips)
    reals, _ = random_inputs(dataclasses.replace(model.config, train=train))
    batch = (
        tuple(tf.constant(level[np.newaxis]) for level in reals),
        tf.zeros([1, clips], tf.int64),
        tf.ones([1], tf.int64),
    )
    strategy = model.distribute_strategy
    batches = iter(strategy.distribute_datasets_from_function(lambda _: tf.data.Dataset.from_tensors(batch).repeat()))

    def step() -> dict[str, Any]:
        with strategy.scope():  # the first step traces the graph
            return model.make_train_function()(batches)

    return step


def products_step(config: Config) -> Callable[[], object]:
    """Multiplies large matrices with as many multiply-adds as our step executes: the speed limit of the machine."""
    import tensorflow as tf

    from tganv2_tf.training.cost import step_cost

    multiply_adds = step_cost(config, config.train.global_batch_size).multiply_adds
    dtype = tf.bfloat16 if config.train.mixed_precision == "mixed_bfloat16" else tf.float32
    shapes = [round(multiply_adds / PRODUCT_SIDE**2), PRODUCT_SIDE], [PRODUCT_SIDE] * 2
    left, right = (tf.cast(tf.random.stateless_normal(shape, [0, 0]), dtype) for shape in shapes)
    return lambda: float(tf.matmul(left, right)[0, 0])


def torch_step(config: Config, compile_mode: str = "") -> Callable[[], object]:
    """Returns the step of the PyTorch baseline, compiled in this mode of `torch.compile` unless it is empty."""
    import torch

    from benchmarks.speed.torch_baseline import TrainingStep

    torch.manual_seed(0)
    reals, z = random_inputs(config)
    levels = [torch.from_numpy(level).permute(0, 4, 1, 2, 3) for level in reals]
    latents = torch.from_numpy(z)
    offsets = [0] * len(config.model.frame_strides)
    training = TrainingStep(config, compile_mode)
    return lambda: {name: float(value) for name, value in training(levels, latents, offsets).items()}


def named_arrays(model: TGANv2) -> dict[str, np.ndarray]:
    """Returns all weights by the authors' names; singular vectors end in /u and /v."""
    from tganv2_tf.interop.chainer import discriminator_weights, generator_weights

    weights = {**generator_weights(model.generator), **discriminator_weights(model.discriminator)}
    arrays = {name: weight.to_chainer(weight.variable.numpy()) for name, weight in weights.items()}
    layers = {id(layer.kernel): layer for layer in model.discriminator.weight_layers if layer.spectral_norm}
    for name, weight in weights.items():
        layer = layers.get(id(weight.variable))
        if layer is not None:
            right = layer.right.numpy().reshape(*layer.kernel.shape[:-1], 1)
            arrays[f"{name[:-1]}u"], arrays[f"{name[:-1]}v"] = layer.left.numpy(), weight.to_chainer(right).ravel()
    return arrays


def perturb(model: TGANv2) -> None:
    """Slightly changes all weights and statistics: with biases of 0, some errors would go unnoticed."""
    random = np.random.default_rng(1)
    for variable in [*model.generator.variables, *model.discriminator.trainable_variables]:
        variable.assign_add(0.02 * random.standard_normal(variable.shape).astype(np.float32))
    for _ in range(10):  # so that no divisor is far below the largest singular value, and no logit far from 0
        model.discriminator.update_singular_vectors()


def write_reference(config: Config, path: str) -> None:
    """Writes perturbed weights, inputs, losses and gradients of the package as an .npz."""
    from tganv2_tf.interop.chainer import discriminator_weights, generator_weights

    model = tensorflow_model(config)
    import tensorflow as tf

    perturb(model)
    variables = [*model.generator.trainable_variables, *model.discriminator.trainable_variables]
    reals, z = random_inputs(config)
    offsets = [stride - 1 for stride in config.model.frame_strides]
    step = tf.function(model.losses_and_gradients, autograph=False)(reals, z, offsets)
    gradients = {
        variable.ref(): gradient
        for variable, gradient in zip(variables, [*step.generator_gradients, *step.discriminator_gradients])
    }
    weights = {**generator_weights(model.generator), **discriminator_weights(model.discriminator)}
    arrays: dict[str, Any] = {f"weight {name}": array for name, array in named_arrays(model).items()}
    for name, weight in weights.items():
        if weight.variable.ref() in gradients:
            arrays[f"gradient {name}"] = weight.to_chainer(gradients[weight.variable.ref()].numpy())
    arrays |= {f"real {index}": level for index, level in enumerate(reals)}
    np.savez(path, z=z, offsets=offsets, **arrays, **{name: step.losses[name].numpy() for name in LOSSES})


def torch_results(config: Config, path: str, compile_mode: str = "") -> dict[str, np.ndarray]:
    """Returns losses and gradients of the baseline, for the weights and inputs of a reference."""
    import torch

    from benchmarks.speed.torch_baseline import TrainingStep, load_weights, named_weights

    arrays = read_npz(path, "benchmarks")
    training = TrainingStep(config, compile_mode)
    networks = training.generator, training.discriminator
    load_weights(*networks, {name.partition(" ")[2]: arrays[name] for name in arrays if name.startswith("weight ")})
    reals = [
        torch.from_numpy(arrays[f"real {index}"]).permute(0, 4, 1, 2, 3)
        for index in range(len(config.model.pyramid.levels))
    ]
    losses = training.backward(reals, torch.from_numpy(arrays["z"]), arrays["offsets"].tolist())
    results = {name: value.numpy() for name, value in losses.items()}
    for name, weight in named_weights(*networks).items():
        if weight.requires_grad:
            results[f"gradient {name}"] = weight.grad.numpy()
    return results


def _group(name: str) -> str:
    if name in LOSSES:
        return name
    return "discriminator" if name.startswith("gradient level") else "generator"


def errors(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns |found - expected| / |expected| of every loss and gradient; infinite if one of them is not finite.

    A gradient that is mathematically 0, such as that of a bias before a batch norm, is only rounding error on both
    sides. Its error is therefore relative to a hundredth of the largest gradient of its network.

    Raises:
      ValueError: One side has a gradient that the other lacks, or all gradients of a network are 0.
    """
    names = {name for name in expected if name in LOSSES or name.startswith("gradient ")}
    if missing := names - found.keys():
        raise ValueError(f"not found: {sorted(missing)}")
    largest: dict[str, float] = {}
    for name in names:
        largest[_group(name)] = max(largest.get(_group(name), 0.0), float(np.linalg.norm(expected[name])))
    if not all(largest.values()):
        raise ValueError(f"nothing to compare, as all are 0: {largest}")
    relative = {}
    for name in names:
        scale = max(float(np.linalg.norm(expected[name])), 0.01 * largest[_group(name)])
        error = float(np.linalg.norm(found[name] - expected[name])) / scale
        relative[name] = error if np.isfinite(error) else np.inf
    return relative


def check_torch(config: Config, compile_mode: str = "") -> float:
    """Compares PyTorch, eager or compiled, with the package in float32: losses, penalty and every gradient.

    Returns:
      The largest error.
    Raises:
      UserError: It is above TOLERANCE.
    """
    # With initial weights the penalty is nearly 0; this weight makes its gradients as large as those of the losses.
    train = dataclasses.replace(config.train, mixed_precision="float32", r1_weight=1e5)
    config = dataclasses.replace(config, train=train)
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder, "reference.npz"))
        in_new_process(write_reference, config, path)
        found = errors(in_new_process(torch_results, config, path, compile_mode), read_npz(path, "benchmarks"))
    worst = max(found, key=lambda name: found[name])
    if not found[worst] <= TOLERANCE:
        raise UserError(f"torch differs from ours: {worst} has a relative error of {found[worst]:.1e}")
    return found[worst]
