"""Generator and discriminator: shapes of inputs and outputs, and equal videos in training and inference."""

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


CONDITIONAL = {"conditional": True, "num_classes": 3}


@pytest.mark.parametrize(
    "changes",
    [{}, {"lstm_layers": 2, **CONDITIONAL}, {"self_modulation": True}, {"self_modulation": True, **CONDITIONAL}],
    ids=["plain", "conditional, two layers", "self-modulation", "both"],
)
def test_long_videos_are_rendered_in_chunks(changes):
    generator = Generator(model_config(**changes))
    labels = tf.constant([0, 2, 1, 2]) if "conditional" in changes else None
    whole = generator(Z, num_frames=7, labels=labels)
    first, state = generator.begin(Z, 2, labels=labels)
    assert state.shape == (len(generator.recurrence), 2, 4, 1, 1, 4)
    resume = tf.function(lambda state, num_frames: generator.resume(state, num_frames, labels=labels, z=Z))
    second, state = resume(state, tf.constant(4))
    third, _ = resume(state, tf.constant(1))
    np.testing.assert_allclose(tf.concat([first, second, third], 1), whole, atol=1e-5)


def scrambled(network, scale=0.3):
    """Changes all weights from their initial values, for which classes are alike."""
    for index, weight in enumerate(network.trainable_variables):
        weight.assign_add(scale * tf.random.stateless_normal(weight.shape, [index, 7]))
    return network


@pytest.mark.parametrize("changes", [{}, {**CONDITIONAL, "self_modulation": True}])
@pytest.mark.parametrize("in_graph", [False, True])
def test_few_frames_are_rendered_at_a_time(monkeypatch, changes, in_graph):
    network, sizes = scrambled(Generator(model_config(**THREE_LEVELS, **changes)), 0.1), []
    labels = tf.constant([0, 2]) if changes else None
    whole = network(Z[:2], num_frames=5, labels=labels)
    block, call = network.generator_levels[2], network.generator_levels[2].call

    def recorded(frames, **kwargs):
        sizes.append(tf.shape(frames)[0])
        return call(frames, **kwargs)

    monkeypatch.setattr(block, "call", recorded)
    monkeypatch.setattr("tganv2_tf.models.generator.PIXELS_AT_ONCE", 4 * 32 * 32)
    if in_graph:
        shape = tf.TensorSpec([None, 4])
        render = tf.function(lambda z, t: network(z, num_frames=t, labels=labels), [shape, tf.TensorSpec([], tf.int32)])
        found = render(Z[:2], 5)
    else:
        found = network(Z[:2], num_frames=5, labels=labels)
        assert [int(size) for size in sizes] == [4, 4, 2], "two frames of both videos, twice, and the last of both"
    assert found.shape == whole.shape
    assert np.abs(whole[0] - whole[1]).max() > 0.1
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)


def test_a_class_changes_its_own_videos_only():
    generator = scrambled(Generator(model_config(**CONDITIONAL)))
    videos = generator(Z, labels=tf.constant([0, 1, 2, 0])).numpy()
    others = generator(Z, labels=tf.constant([0, 2, 2, 1])).numpy()
    changed = np.abs(videos - others).max((1, 2, 3, 4))
    assert (changed[[0, 2]] < 1e-6).all() and (changed[[1, 3]] > 1e-3).all()
    # The recurrence receives the class, too, so that motion can depend on it.
    states = [generator.begin(Z, 1, labels=tf.fill([4], label))[1] for label in (0, 1)]
    assert np.abs(states[0] - states[1]).min((0, 1, 3, 4, 5)).max() > 0
    with pytest.raises(ValueError, match="labels are missing"):
        generator(Z)
    with pytest.raises(ValueError, match="labels are for a conditional"):
        Generator(model_config())(Z, labels=tf.zeros([4], tf.int32))


def test_self_modulation_depends_on_the_latent_at_every_norm():
    generator = scrambled(Generator(model_config(self_modulation=True)))
    features, _ = generator.unroll(generator.initial_features(Z), 2)
    videos = [generator.render(features, z=z).numpy() for z in (Z, tf.concat([Z[:1], -Z[1:]], 0))]
    changed = np.abs(videos[0] - videos[1]).max((1, 2, 3, 4))
    assert changed[0] < 1e-6 and (changed[1:] > 1e-3).all()
    assert len(generator.batch_norms) == 10 and all(hasattr(norm, "modulation") for norm in generator.batch_norms)
    with pytest.raises(ValueError, match="z is missing"):
        generator.render(features)


def test_conditional_levels_follow_the_samples_that_are_kept():
    # With running statistics, level 2 in training contains every second sample of inference, with its class.
    generator = scrambled(Generator(model_config(self_modulation=True, **CONDITIONAL)))
    labels = tf.constant([0, 1, 2, 1])
    full = generator(Z, labels=labels).numpy()
    _, second = generator.pyramid(Z, training=False, frame_offsets=[1], labels=labels)
    np.testing.assert_allclose(second, full[::2, 1::2], atol=1e-5)


def test_projection_adds_the_logit_of_the_class_at_every_level():
    discriminator = scrambled(Discriminator(model_config(spectral_norm=False, **CONDITIONAL)))
    videos = [tf.random.stateless_uniform(shape, [3, 4], -1, 1) for shape in ((4, 4, 8, 8, 3), (2, 2, 16, 16, 3))]
    labels = [0, 1, 2, 1]
    logits = discriminator(videos, tf.constant(labels))
    for network, level, of_level, kept in zip(
        discriminator.level_discriminators, videos, logits, (labels, labels[::2])
    ):
        features = level
        for block in network.blocks:
            features = block(features)
        features = tf.reduce_sum(tf.nn.relu(features), [1, 2, 3]).numpy()
        linear, projection = (layer.kernel.numpy() for layer in (network.linear, network.projection))
        expected = features @ linear[:, 0] + network.linear.bias.numpy()[0]
        for i, label in enumerate(kept):
            expected[i] += features[i] @ projection[:, label] + network.projection.bias.numpy()[label]
        np.testing.assert_allclose(of_level, expected, rtol=1e-4)
    assert {f"level{n}/projection" for n in (1, 2)} <= {
        "/".join(v.name.split("/")[-3:-1]) for v in discriminator.trainable_variables
    }


def test_subsampled_levels_are_frames_and_samples_of_the_full_ones():
    # With running statistics S^G is the only difference between training and inference.
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
    with pytest.raises(ValueError, match=r"level 2 have shape \(1, 2, 16, 16\); expected \[N, T, H, W, 3\]"):
        Discriminator(model_config())([tf.zeros([1, 4, 8, 8, 3]), tf.zeros([1, 2, 16, 16])])
    with pytest.raises(ValueError, match=r"2 frame offsets for 2 levels"):
        generator.pyramid(Z, frame_offsets=[0, 0])
    # A single label would be broadcast to all samples.
    with pytest.raises(ValueError, match=r"labels have shape \(1,\) for z of shape \(4, 4\)"):
        Generator(model_config(**CONDITIONAL))(Z, labels=tf.zeros([1], tf.int32))
    levels = [tf.zeros([4, 4, 8, 8, 3]), tf.zeros([2, 2, 16, 16, 3])]
    with pytest.raises(ValueError, match=r"labels have shape \(1,\) for videos of shape \(4, 4, 8, 8, 3\)"):
        Discriminator(model_config(**CONDITIONAL))(levels, tf.zeros([1], tf.int32))


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


def test_inference_has_no_batch_norm_of_onednn_which_is_slow_without_avx_512():
    generator = Generator(model_config())
    graph = tf.function(lambda z: generator(z)).get_concrete_function(tf.TensorSpec([2, Z.shape[-1]])).graph
    types = [operation.type for operation in graph.get_operations()]
    assert not {name for name in types if "BatchNorm" in name}
    # Two norms per up block of all levels, and that of the last rendering, each in one pass.
    assert types.count("DepthwiseConv2dNative") == 2 * 4 + 1


def test_parameters_of_the_papers_networks():
    # By hand, for one 3x3 up block of the paper's last level, 32 -> 32: BN 4 * 32, conv 9 * 32 * 32 + 32, BN 4 * 32,
    # the same conv, shortcut 32 * 32 + 32; rendering: BN 4 * 32, conv 9 * 32 * 3 + 3.
    config = ModelConfig(up_channels=(8, 8, 8, 8, 32, 32), lstm_channels=8, discriminator_channels=(4,))
    last = Generator(config).generator_levels[-1]
    assert last.count_params() == 2 * (128 + 9 * 1024 + 32) + 1024 + 32 + 128 + 9 * 96 + 3
    # Block 3 -> 4: 27 * 3 * 4 + 4, 27 * 4 * 4 + 4, 3 * 4 + 4; linear 4 + 1; two singular vectors per kernel.
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
