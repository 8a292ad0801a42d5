"""S^G and S^D compared with slices written out by hand."""

import numpy as np
import tensorflow as tf

from tganv2_tf.pyramid import PyramidSpec
from tganv2_tf.subsampling import average_pixels, random_frame_offsets, subsample, video_pyramid

SEED = tf.constant([3, 4])


def test_subsample_is_the_papers_slice():
    h = np.arange(4 * 6 * 1 * 1 * 2, dtype=np.float32).reshape(4, 6, 1, 1, 2)
    reduced = subsample(tf.constant(h), tf.constant(1), 3, 2)
    np.testing.assert_array_equal(reduced, h[::2, 1::3])
    assert reduced.shape == (2, 2, 1, 1, 2)


def test_static_lengths_survive_an_offset_that_is_a_tensor():
    @tf.function(input_signature=[tf.TensorSpec([4, 8, 2, 2, 1]), tf.TensorSpec([], tf.int32)])
    def function(h, offset):
        reduced = subsample(h, offset, 2, 2)
        assert reduced.shape == (2, 4, 2, 2, 1)
        return reduced

    function(tf.zeros([4, 8, 2, 2, 1]), 1)


def test_offsets_take_every_value_and_only_those():
    drawn = [[int(o) for o in random_frame_offsets((2, 3), tf.constant([0, i]))] for i in range(60)]
    assert {first for first, _ in drawn} == {0, 1}
    assert {second for _, second in drawn} == {0, 1, 2}
    assert drawn[0] == [int(o) for o in random_frame_offsets((2, 3), tf.constant([0, 0]))]


def test_average_pixels_are_block_means():
    video = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4, 1)
    # Blocks of the 4x4 numbers 0..15: (0 + 1 + 4 + 5) / 4 = 2.5, and so on.
    np.testing.assert_allclose(average_pixels(tf.constant(video), 2)[0, 0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def frame_numbers(num_clips, spec, seed=SEED):
    """Returns clip and frame numbers of each level, for clips whose pixels are 100 * clip + frame."""
    number = 100 * np.arange(num_clips)[:, None] + np.arange(spec.num_frames)[None]
    size = spec.resolution
    videos = np.broadcast_to(number[:, :, None, None, None], (*number.shape, size, size, 3)).astype(np.float32)
    levels = video_pyramid(tf.constant(videos), spec, seed)
    return levels, [np.rint(level.numpy()[:, :, 0, 0, 0]).astype(int) for level in levels]


def test_real_levels_have_the_sizes_clips_and_strides_of_the_fakes():
    spec = PyramidSpec(16, 32, (2, 2), (2, 2))
    levels, numbers = frame_numbers(8, spec)
    assert [tuple(level.shape) for level in levels] == [(8, 16, 8, 8, 3), (4, 8, 16, 16, 3), (2, 4, 32, 32, 3)]
    np.testing.assert_array_equal(numbers[0] // 100, np.arange(8)[:, None].repeat(16, 1))
    np.testing.assert_array_equal(numbers[1][:, 0] // 100, [0, 2, 4, 6])
    np.testing.assert_array_equal(numbers[2][:, 0] // 100, [0, 4])
    np.testing.assert_array_equal(np.diff(numbers[1], axis=1), 2)
    np.testing.assert_array_equal(np.diff(numbers[2], axis=1), 4)


def test_frames_are_nested_and_offsets_differ_between_clips():
    spec = PyramidSpec(16, 32, (2, 2), (1, 1))
    _, numbers = frame_numbers(32, spec)
    for clip in range(32):
        assert set(numbers[2][clip]) <= set(numbers[1][clip]) <= set(numbers[0][clip])
    assert set(numbers[1][:, 0] % 100) == {0, 1}, "offsets of level 2 are drawn for each clip"
    assert set(numbers[2][:, 0] % 100) == {0, 1, 2, 3}, "and again at level 3"
