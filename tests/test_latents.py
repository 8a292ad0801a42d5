"""Latents of several parts: their distributions, truncation, bounds, text and interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.models import latents
from tganv2_tf.sampling.latent_paths import linear, spherical

PARTS = (("uniform", 4), ("normal", 3), ("one_hot", 5))
SEED = tf.constant([3, 4])


def test_parts_have_their_distributions():
    z = latents.sample_latents(4000, PARTS, SEED).numpy()
    assert z.shape == (4000, 12) == (4000, latents.size_of(PARTS))
    uniform, normal, category = np.split(z, [4, 7], axis=1)
    assert -1 <= uniform.min() < -0.99 and 0.99 < uniform.max() < 1
    np.testing.assert_allclose(uniform.std(0), 3**-0.5, atol=0.02)
    np.testing.assert_allclose(normal.std(0), 1, atol=0.05)
    np.testing.assert_allclose(normal.mean(0), 0, atol=0.06)
    np.testing.assert_array_equal(np.sort(category, 1)[:, -2:], [[0, 1]] * 4000)
    np.testing.assert_allclose(category.mean(0), 0.2, atol=0.03)
    assert np.abs(np.corrcoef(z[:, :7].T) - np.eye(7)).max() < 0.06, "parts have seeds of their own"


def test_one_uniform_part_is_drawn_from_the_seed_itself():
    expected = tf.random.stateless_uniform([5, 4], SEED, -1.0, 1.0)
    np.testing.assert_array_equal(latents.sample_latents(5, 4, SEED), expected)
    np.testing.assert_array_equal(latents.sample_latents(5, (("uniform", 4),), SEED), expected)


def test_a_seed_gives_the_same_latent_in_every_batch():
    many = latents.latents_from_seeds(tf.constant([3, 9, 11], tf.int64), PARTS).numpy()
    np.testing.assert_array_equal(latents.latents_from_seeds(tf.constant([9], tf.int64), PARTS)[0], many[1])


def test_truncation_scales_all_but_categories():
    z = latents.sample_latents(2, PARTS, SEED).numpy()
    scaled = latents.truncate(z, 0.5, PARTS)
    np.testing.assert_array_equal(scaled[:, :7], 0.5 * z[:, :7])
    np.testing.assert_array_equal(scaled[:, 7:], z[:, 7:])
    assert scaled.dtype == np.float32


def test_bounds_and_text():
    low, high = latents.bounds(PARTS)
    np.testing.assert_array_equal(low, [-1] * 4 + [-np.inf] * 3 + [0] * 5)
    np.testing.assert_array_equal(high, [1] * 4 + [np.inf] * 3 + [1] * 5)
    assert latents.to_text(PARTS) == "uniform 4,normal 3,one_hot 5"
    assert latents.from_text(latents.to_text(PARTS)) == PARTS
    assert latents.from_text(latents.to_text(6)) == (("uniform", 6),)


@pytest.mark.parametrize("way", [linear, spherical])
def test_interpolation_keeps_the_first_category(way):
    first, second = latents.sample_latents(2, PARTS, tf.constant([1, 1])).numpy()
    assert not np.array_equal(first[7:], second[7:])
    path = way(first, second, np.array([0.0, 0.5, 1.0]), PARTS)
    np.testing.assert_allclose(path[0], first, atol=1e-6)
    np.testing.assert_allclose(path[2, :7], second[:7], atol=1e-6)
    np.testing.assert_array_equal(path[:, 7:], [first[7:]] * 3)


def test_spherical_paths_of_normal_parts_are_great_circles():
    first, second = np.array([3.0, 0.0], np.float32), np.array([0.0, 3.0], np.float32)
    path = spherical(first, second, np.array([0.5]), (("normal", 2),))
    np.testing.assert_allclose(path, [[3 * 0.5**0.5] * 2], rtol=1e-6)
