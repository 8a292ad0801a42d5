"""Generator and discriminator: shapes at every door, and that training and inference render the same videos."""

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import TINY_MODEL
from tganv2_tf.config import ModelConfig
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.layers import BatchNorm

Z = tf.random.stateless_uniform([4, 4], [1, 2], -1, 1)


def model_config(**changes):
    return ModelConfig(**{**TINY_MODEL, **changes})


THREE_LEVELS = {"resolution": 32, "frame_strides": (2, 2), "batch_strides": (2, 1), "up_channels": (4, 4, 4, 4, 4)}


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({}, [(4, 4, 8, 8, 3), (2, 2, 16, 16, 3)]),
        (THREE_LEVELS, [(4, 4, 8, 8, 3), (2, 2, 16, 16, 3), (2, 1, 32, 32, 3)]),
        ({"resolution": 8, "frame_strides": (), "batch_strides": (), "up_channels": (4, 4, 4)}, [(4, 4, 8, 8, 3)]),
        ({"resolution": 32, "lstm_layers": 2}, [(4, 4, 16, 16, 3), (2, 2, 32, 32, 3)]),
    ],
    ids=["two levels", "three", "one", "two recurrent layers"],
)
def test_levels_of_training_and_their_logits(changes, shapes):
    config = model_config(**changes)
    videos = Generator(config).pyramid(Z)
    assert [tuple(video.shape) for video in videos] == shapes
    assert all(float(tf.reduce_max(tf.abs(video))) <= 1 for video in videos)
    logits = Discriminator(config)(videos)
    assert [tuple(level.shape) for level in logits] == [(shape[0],) for shape in shapes]


def test_inference_renders_any_level_and_number_of_frames():
    generator = Generator(model_config())
    assert generator(Z).shape == (4, 4, 16, 16, 3)
    assert generator(Z, level=1).shape == (4, 4, 8, 8, 3)
    long = generator(Z, num_frames=9)
    assert long.shape == (4, 9, 16, 16, 3)
    np.testing.assert_allclose(long[:, :4], generator(Z), atol=1e-5)
    np.testing.assert_allclose(generator(Z, num_frames=tf.constant(9)), long, atol=1e-5)


def test_subsampled_levels_are_frames_and_samples_of_the_full_ones():
    # With running statistics nothing but S^G stands between the two ways.
    generator = Generator(model_config())
    full = [generator(Z, level=level).numpy() for level in (1, 2)]
    for offset in (0, 1):
        first, second = generator.pyramid(Z, training=False, frame_offsets=[offset])
        np.testing.assert_allclose(first, full[0], atol=1e-5)
        np.testing.assert_allclose(second, full[1][::2, offset::2], atol=1e-5)


def test_strides_of_a_call_win_over_the_configs():
    videos = Generator(model_config()).pyramid(Z, frame_strides=(4,), batch_strides=(1,))
    assert tuple(videos[1].shape) == (4, 1, 16, 16, 3)


def test_wrong_input_is_refused():
    generator = Generator(model_config())
    with pytest.raises(ValueError, match=r"expected \[N, 4\]"):
        generator(tf.zeros([1, 5]))
    with pytest.raises(ValueError, match="level 3 does not exist; valid: 1 to 2"):
        generator(Z, level=3)
    with pytest.raises(ValueError, match="1 levels of videos for 2 networks"):
        Discriminator(model_config())([tf.zeros([1, 4, 8, 8, 3])])


def test_weights_are_all_different_and_all_there_from_the_start():
    generator = Generator(model_config())
    kernels = [v.numpy() for v in generator.trainable_variables if "kernel" in v.name]
    for i, kernel in enumerate(kernels):
        for other in kernels[:i]:
            assert kernel.shape != other.shape or np.abs(kernel - other).max() > 0.01
    count = len(generator.variables)
    generator.pyramid(Z)
    assert len(generator.variables) == count
    norms = [m for m in generator.submodules if isinstance(m, BatchNorm)]
    assert len(norms) == 2 * 4 + 2, "two an up block, one a rendering block"


def test_parameters_of_the_papers_networks():
    # By hand, for one 3x3 up block of the paper's last level, 32 -> 32: BN 4 * 32, conv 9 * 32 * 32 + 32, BN 4 * 32,
    # conv the same, shortcut 32 * 32 + 32; rendering: BN 4 * 32, conv 9 * 32 * 3 + 3.
    config = ModelConfig(up_channels=(8, 8, 8, 8, 32, 32), lstm_channels=8, discriminator_channels=(4,))
    last = Generator(config).generator_levels[-1]
    assert last.count_params() == 2 * (128 + 9 * 1024 + 32) + 1024 + 32 + 128 + 9 * 96 + 3
    # Block 3 -> 4: 27 * 3 * 4 + 4, 27 * 4 * 4 + 4, 3 * 4 + 4; linear 4 + 1; singular vectors: each kernel's two sides.
    kernels = [(81, 4), (108, 4), (3, 4), (4, 1)]
    weights = sum(a * b + b for a, b in kernels)
    vectors = sum(a + b for a, b in kernels)
    network = Discriminator(config).level_discriminators[0]
    assert network.count_params() == weights + vectors


def test_discriminator_sums_over_frames_and_pixels():
    # One block and a linear layer with weights 1: on a constant clip, twice the frames give twice the logit.
    config = model_config(discriminator_channels=(4,), spectral_norm=False)
    network = Discriminator(config).level_discriminators[0]
    network.linear.kernel.assign(tf.ones_like(network.linear.kernel))
    for conv in (network.blocks[0].conv1, network.blocks[0].conv2):
        conv.kernel.assign(tf.zeros_like(conv.kernel))
    network.blocks[0].shortcut.kernel.assign(tf.ones_like(network.blocks[0].shortcut.kernel))
    short, long = network(tf.ones([1, 2, 8, 8, 3])), network(tf.ones([1, 4, 8, 8, 3]))
    assert float(short[0]) != 0
    np.testing.assert_allclose(long, 2 * short, rtol=1e-5)
