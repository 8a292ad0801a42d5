"""DiffAugment: values computed by hand, and equal transforms for all frames and levels of a clip."""

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.config import POLICIES, parse_policy
from tganv2_tf.errors import ConfigError
from tganv2_tf.models import augmentation
from tganv2_tf.models.augmentation import TRANSFORMS, diffaugment
from tganv2_tf.subsampling import average_pixels

SEED = tf.constant([3, 4])


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def pyramid_of(videos, frame_strides, batch_strides, offsets):
    """Averages float32 [N, T, R, R, 3] to levels of 8, 16, 32 ... pixels."""
    levels = []
    for i in range(len(batch_strides) + 1):
        if i:
            videos = videos[:: batch_strides[i - 1], offsets[i - 1] :: frame_strides[i - 1]]
        levels.append(average_pixels(tf.constant(videos), videos.shape[2] // (8 << i)))
    return levels


def test_policies_are_read_in_their_order():
    assert parse_policy("cutout,color") == ("cutout", "color")
    assert parse_policy(" color, translation ,cutout") == POLICIES
    assert parse_policy("") == ()
    assert tuple(TRANSFORMS) == POLICIES


@pytest.mark.parametrize("text", ["colour", "color,color", "color,", "color translation"])
def test_other_policies_are_refused_with_the_valid_ones(text):
    with pytest.raises(ConfigError, match=f"^--diffaugment={text}: valid: .*color,translation,cutout"):
        parse_policy(text)


def test_color_by_hand():
    pixels = tf.reshape(tf.constant([[0.2, 0.4, 0.9], [0.0, 0.0, 0.0]]), [1, 1, 1, 2, 3])
    # The first mean is 0.5, the differences are -0.3, -0.1, 0.4. Halved, around 0.5 + 0.1: 0.45, 0.55, 0.8; times 1.5.
    out = augmentation.color(pixels, tf.constant([[0.1, 0.5, 1.5]]), 1)
    np.testing.assert_allclose(out[0, 0, 0], [[0.675, 0.825, 1.2], [0.15, 0.15, 0.15]], rtol=1e-6)


def test_translation_by_hand():
    video = noise(2, 3, 16, 16, 3)
    moved = augmentation.translate(tf.constant(video), tf.constant([[1, -1], [0, 1]]), 8)
    expected = np.zeros_like(video)
    expected[0, :, 2:, :-2] = video[0, :, :-2, 2:]  # one pixel of 8 is two of 16
    expected[1, :, :, 2:] = video[1, :, :, :-2]
    np.testing.assert_array_equal(moved, expected)


def test_cutout_by_hand():
    centres = tf.constant([[4, 4], [0, 3], [8, 8]])
    kept = augmentation.cut_out(tf.ones([3, 1, 8, 8, 3]), centres, 8)[:, 0, :, :, 0].numpy()
    expected = np.ones((3, 8, 8))
    expected[0, 2:6, 2:6] = 0  # half of the side, centred
    expected[1, 0:2, 1:5] = 0  # the other half of this hole is above the video
    expected[2, 6:8, 6:8] = 0
    np.testing.assert_array_equal(kept, expected)
    fine = augmentation.cut_out(tf.ones([3, 1, 24, 24, 3]), centres, 8)[:, 0, :, :, 0]
    np.testing.assert_array_equal(fine, expected.repeat(3, 1).repeat(3, 2))


@pytest.mark.parametrize("policy", [*[(name,) for name in POLICIES], POLICIES, POLICIES[::-1]])
def test_transformed_levels_are_the_levels_of_the_transformed(policy):
    strides, offsets = (2, 3), (1, 0)
    levels = pyramid_of(noise(12, 8, 32, 32, 3), (2, 2), strides, offsets)
    assert [level.shape[:2] for level in levels] == [(12, 8), (6, 4), (2, 2)]
    transformed = diffaugment(levels, policy, strides, SEED)
    for coarse, fine, stride, offset in zip(transformed, transformed[1:], strides, offsets):
        np.testing.assert_allclose(average_pixels(fine, 2), coarse[::stride, offset::2], atol=1e-6)
    changes = np.abs(transformed[0] - levels[0]).max(axis=(1, 2, 3, 4))
    assert (changes > 0.01).sum() >= 10, "this is no test where clips stay as they are"


def test_all_frames_of_a_clip_are_transformed_alike_and_clips_are_not():
    videos = np.broadcast_to(noise(1, 1, 16, 16, 3), (6, 4, 16, 16, 3))
    for name in POLICIES:
        (out,) = diffaugment([tf.constant(videos)], (name,), (), SEED)
        np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1], out.shape))
        # Six draws from nine translations are rarely six different ones.
        assert len(np.unique(out[:, 0].numpy().reshape(6, -1), axis=0)) >= 4, name


def test_a_policy_draws_the_same_whatever_stands_beside_it():
    videos = tf.constant(noise(4, 2, 8, 8, 3))
    one_by_one = videos
    for number, name in enumerate(POLICIES):
        parameters = TRANSFORMS[name].draw(4, 8, tf.random.experimental.stateless_fold_in(SEED, number))
        one_by_one = TRANSFORMS[name].apply(one_by_one, parameters, 8)
    np.testing.assert_array_equal(diffaugment([videos], POLICIES, (), SEED)[0], one_by_one)
    other_order = diffaugment([videos], ("cutout", "color"), (), SEED)[0]
    assert np.abs(diffaugment([videos], ("color", "cutout"), (), SEED)[0] - other_order).max() > 0.01


def test_the_seed_decides():
    videos = [tf.constant(noise(4, 2, 8, 8, 3))]
    first, again, other = (diffaugment(videos, POLICIES, (), tf.constant(seed))[0] for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert np.all(np.abs(first - other).max(axis=(1, 2, 3, 4)) > 0.01)


def test_colors_fill_the_ranges_of_the_paper():
    drawn = augmentation.draw_color(4000, 8, SEED).numpy()
    lowest, highest = np.array([-0.5, 0, 0.5]), np.array([0.5, 2, 1.5])
    assert np.all(drawn >= lowest) and np.all(drawn < highest)
    # The minimum of 4000 lies within 1/100 of the range, except once in 1 / 0.99^4000 = 3e17 times.
    np.testing.assert_array_less(drawn.min(0), lowest + 0.01 * (highest - lowest))
    np.testing.assert_array_less(highest - 0.01 * (highest - lowest), drawn.max(0))
    # The mean's standard deviation is (highest - lowest) / sqrt(12 * 4000) = 0.0046 of the range.
    np.testing.assert_array_less(np.abs(drawn.mean(0) - (lowest + highest) / 2), 5 * 0.0046 * (highest - lowest))
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize(
    ("draw", "values"),
    [
        (augmentation.draw_translation, range(-2, 3)),  # an eighth of 16
        (augmentation.draw_cutout, range(17)),
    ],
)
def test_places_are_all_whole_numbers_of_their_range(draw, values):
    drawn = draw(6000, 16, SEED).numpy()
    assert {tuple(pair) for pair in drawn} == {(row, column) for row in values for column in values}
    for axis in (0, 1):
        share = np.unique(drawn[:, axis], return_counts=True)[1] / 6000
        # Five standard deviations of a fraction p of 6000: at most 5 * sqrt(p / 6000).
        np.testing.assert_allclose(share, 1 / len(values), atol=5 * (len(values) * 6000) ** -0.5)


@pytest.mark.parametrize(
    ("name", "parameters"), [("color", [0.25, 0.5, 1.25]), ("translation", [1, -1]), ("cutout", [3, 1])]
)
def test_gradients_are_those_of_the_matrix(name, parameters):
    apply, shape = TRANSFORMS[name].apply, (2, 8, 8, 3)
    size = int(np.prod(shape))
    repeated = tf.repeat(tf.constant([parameters]), size + 1, axis=0)
    # An affine map is determined by its values at 0 and at the unit vectors. (Level 1 has 4 pixels here.)
    points = tf.reshape(tf.concat([tf.zeros([1, size]), tf.eye(size)], 0), [-1, *shape])
    images = apply(points, repeated, 4).numpy().reshape(-1, size)
    constant, matrix = images[0], (images[1:] - images[0]).T
    weights, video = noise(2, size)
    with tf.GradientTape() as outer:
        x = tf.constant(video.reshape(1, *shape))
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = tf.reduce_sum(weights.reshape(x.shape) * apply(x, repeated[:1], 4) ** 2)
        first = inner.gradient(value, x)
        penalty = tf.reduce_sum(first**2)
    second = outer.gradient(penalty, x)
    by_hand = 2 * matrix.T @ (weights * (matrix @ video + constant))
    np.testing.assert_allclose(first.numpy().ravel(), by_hand, atol=1e-4)
    by_hand = 4 * matrix.T @ (weights * (matrix @ by_hand))
    np.testing.assert_allclose(second.numpy().ravel(), by_hand, atol=1e-4)


def test_graphs_give_what_eager_execution_gives():
    levels = pyramid_of(noise(4, 4, 16, 16, 3), (2,), (2,), (0,))
    shapes = [tf.TensorSpec([None, *level.shape[1:]]) for level in levels]
    graph = tf.function(lambda *videos: diffaugment(videos, POLICIES, (2,), SEED), shapes, autograph=False)
    assert [level.shape[1:] for level in graph.get_concrete_function().outputs] == [(4, 8, 8, 3), (2, 16, 16, 3)]
    for found, expected in zip(graph(*levels), diffaugment(levels, POLICIES, (2,), SEED)):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_xla_gives_what_eager_execution_gives():
    """With the same parameters: XLA draws other random numbers from a seed."""
    parameters = [TRANSFORMS[name].draw(4, 8, SEED) for name in POLICIES]
    video, weights = tf.constant(noise(4, 2, 16, 16, 3)), noise(4, 2, 16, 16, 3)[::-1].copy()

    def run(x, parameters):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = x
            for name, values in zip(POLICIES, parameters):
                out = TRANSFORMS[name].apply(out, values, 8)
            loss = tf.reduce_sum(weights * out)
        return out, tape.gradient(loss, x)

    compiled = tf.function(run, jit_compile=True, autograph=False)
    for found, expected in zip(compiled(video, parameters), run(video, parameters)):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_replicas_transform_by_their_seeds(two_replicas):
    videos = tf.constant(noise(2, 2, 8, 8, 3))

    @tf.function(autograph=False)
    def run():
        def replica():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            return diffaugment([videos], POLICIES, (), tf.random.experimental.stateless_fold_in(SEED, number))[0]

        return two_replicas.experimental_local_results(two_replicas.run(replica))

    for number, found in enumerate(run()):
        seed = tf.random.experimental.stateless_fold_in(SEED, number)
        np.testing.assert_allclose(found, diffaugment([videos], POLICIES, (), seed)[0], atol=1e-6)


def test_no_policy_is_no_change():
    videos = [tf.zeros([2, 2, 8, 8, 3]), tf.zeros([1, 1, 16, 16, 3])]
    assert all(a is b for a, b in zip(diffaugment(videos, (), (2,), SEED), videos))
    with pytest.raises(ValueError, match="2 batch strides for 2 levels"):
        diffaugment(videos, POLICIES, (2, 2), SEED)
