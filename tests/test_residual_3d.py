"""The discriminators' block compared with plain definitions, and the authors' lengths of the time axis."""

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.residual_3d import ResBlock3D, average_pool

RNG = np.random.default_rng(0)


def normal(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def test_pooling_by_hand():
    x = tf.reshape(tf.constant([2.0, 4.0, 6.0]), [1, 3, 1, 1, 1])
    # Odd: zero-padded on both sides, [0, 2, 4, 6, 0] -> (0 + 2) / 2, (4 + 6) / 2; the last zero has no partner.
    np.testing.assert_allclose(tf.reshape(average_pool(x), [-1]), [1, 5])
    np.testing.assert_allclose(tf.reshape(average_pool(x, pool_time=False), [-1]), [2, 4, 6])


def times(length, grow):
    """Returns the lengths of the time axis per block, for a first block and four later ones."""
    x, result = tf.zeros([1, length, 32, 32, 1]), [length]
    for block in range(5):
        x = average_pool(x, pool_time=block > 0, grow_length_one_axes=grow)
        result.append(x.shape[1])
    return result


def test_time_by_block_is_the_authors_with_growth_and_ends_at_one_without():
    # The authors' implementation, for inputs of 8, 4 and 2 frames.
    assert times(8, True) == [8, 8, 4, 2, 1, 3]
    assert times(4, True) == [4, 4, 2, 1, 3, 2]
    assert times(2, True) == [2, 2, 1, 3, 2, 1]
    assert times(8, False) == [8, 8, 4, 2, 1, 1]
    assert times(2, False) == [2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("grow", [False, True])
@pytest.mark.parametrize("lengths", [(4, 4, 4), (2, 3, 3), (1, 2, 2), (1, 1, 1)])
def test_residual_block_is_its_plain_definition(lengths, grow):
    block = ResBlock3D(5, False, False, grow, 3)
    x = normal(2, *lengths, 3)
    y = block(x)
    plain = lambda h, conv: tf.nn.conv3d(h, conv.kernel, [1] * 5, "SAME") + conv.bias  # noqa: E731
    for conv in (block.conv1, block.conv2, block.shortcut):
        conv.bias.assign(RNG.normal(size=conv.bias.shape))
    hidden = plain(tf.nn.relu(plain(tf.nn.relu(x), block.conv1)), block.conv2)
    pool = lambda h: average_pool(h, grow_length_one_axes=grow)  # noqa: E731
    expected = pool(hidden) + pool(plain(x, block.shortcut))
    np.testing.assert_allclose(block(x), expected, atol=1e-4)
    assert y.shape == expected.shape
    assert block.lengths_after(lengths) == expected.shape[1:4].as_list()


def test_kernels_for_given_lengths_by_hand():
    discriminator = Discriminator(tiny_config({"discriminator_channels": (4,) * 5}).model)
    _, level = discriminator.effective_weights([(4, 8, 8), (2, 16, 16)])
    taps = [tuple(block.conv1.kernel.shape[:3]) for block in level.blocks]
    assert taps == [tuple(block.conv2.kernel.shape[:3]) for block in level.blocks]
    # Blocks see (2, 16, 16), (2, 8, 8), as the first does not pool time, (1, 4, 4), (1, 2, 2) and (1, 1, 1).
    assert taps == [(3, 3, 3), (3, 3, 3), (1, 3, 3), (1, 3, 3), (1, 1, 1)]
    assert {tuple(block.shortcut.kernel.shape[:3]) for block in level.blocks} == {(1, 1, 1)}


def test_first_block_has_no_pre_activation_and_keeps_time():
    block = ResBlock3D(4, True, False, False, 3)
    x = normal(1, 3, 4, 4, 3)
    y = block(x)
    assert y.shape == (1, 3, 2, 2, 4)
    plain = lambda h, conv: tf.nn.conv3d(h, conv.kernel, [1] * 5, "SAME") + conv.bias  # noqa: E731
    hidden = plain(tf.nn.relu(plain(x, block.conv1)), block.conv2)
    pool = lambda h: tf.nn.avg_pool3d(h, [1, 1, 2, 2, 1], [1, 1, 2, 2, 1], "VALID")  # noqa: E731
    np.testing.assert_allclose(y, pool(hidden) + plain(pool(x), block.shortcut), atol=1e-4)
