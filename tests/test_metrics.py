"""The numerics of the scores: bounds, closed forms, and reference implementations with loops or SciPy."""

from __future__ import annotations

import copy
import math
from unittest import mock

import numpy as np
import pytest
import scipy.linalg

from tganv2_tf.evaluation import metrics
from tganv2_tf.evaluation.metrics import InceptionScore, Moments, frechet_distance


def inception_score(probabilities, batch_size=1000):
    score = InceptionScore()
    for i in range(0, len(probabilities), batch_size):
        score.update(probabilities[i : i + batch_size])
    return score.result()


def moments(features, batch_size=1000):
    result = Moments()
    for i in range(0, len(features), batch_size):
        result.update(features[i : i + batch_size])
    return result


def with_moments(mean, covariance, seed=0):
    """Returns moments of 4 d samples with exactly this mean and covariance, up to rounding."""
    d = len(mean)
    noise = np.random.default_rng(seed).standard_normal((4 * d, d))
    noise -= noise.mean(0)
    whitened = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T))).T
    return moments(mean + whitened @ np.linalg.cholesky(covariance).T)


def random_covariance(seed, d=6):
    """Returns a covariance with eigenvalues from 0.5 to 3 and random axes."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return axes @ np.diag(rng.uniform(0.5, 3, d)) @ axes.T


class TestInceptionScore:
    def test_is_one_where_all_samples_look_alike(self):
        assert inception_score(np.tile([0.7, 0.2, 0.1], (50, 1))) == pytest.approx(1, abs=1e-12)

    def test_is_the_number_of_classes_where_each_is_met_surely_and_as_often(self):
        assert inception_score(np.tile(np.eye(7, dtype=np.float32), (3, 1))) == pytest.approx(7, rel=1e-12)

    def test_two_classes_by_hand(self):
        # p(y) = (1/2, 1/2), and each sample's divergence from it is 3/4 ln(3/2) + 1/4 ln(1/2).
        expected = 1.5**0.75 * 0.5**0.25
        assert inception_score(np.array([[0.75, 0.25], [0.25, 0.75]])) == pytest.approx(expected, rel=1e-14)

    def test_classes_that_are_met_unequally_by_hand(self):
        # Three samples are certainly of class 0 and one of class 1: the entropy of (3/4, 1/4).
        rows = np.eye(2)[[0, 0, 0, 1]]
        assert inception_score(rows) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), rel=1e-14)

    @pytest.mark.parametrize("batch_size", [1, 7, 64])
    def test_batches_of_any_size_give_the_authors_formula(self, batch_size):
        p = np.random.default_rng(0).dirichlet(np.full(10, 0.1), 200).astype(np.float32).astype(np.float64)
        direct = np.exp(np.mean(np.sum(p * (np.log(p + 1e-20) - np.log(p.mean(0) + 1e-20)), 1)))
        assert direct > 2
        assert inception_score(p, batch_size) == pytest.approx(direct, rel=1e-13)

    def test_what_is_no_softmax_is_refused(self):
        score = InceptionScore()
        with pytest.raises(ValueError, match="no probabilities yet"):
            score.result()
        for wrong in ([[0.5, 0.6]], [[1.5, -0.5]]):
            with pytest.raises(ValueError, match="expected softmax outputs"):
                score.update(np.array(wrong))
        with pytest.raises(ValueError, match=r"probabilities of shape \[2\]; expected a non-empty \[n, d\]"):
            score.update(np.array([0.5, 0.5]))
        with pytest.raises(ValueError, match="NaN or infinity"):
            score.update(np.array([[np.nan, 1.0]]))
        score.update(np.array([[0.5, 0.5]]))
        with pytest.raises(ValueError, match="of 3 classes; earlier ones had 2"):
            score.update(np.full((1, 3), 1 / 3))
        assert score.result() == pytest.approx(1), "what is refused leaves no trace"


class TestMoments:
    @pytest.mark.parametrize("batch_size", [1, 7, 100])
    def test_batches_of_any_size_give_numpys_moments(self, batch_size):
        features = np.random.default_rng(0).standard_normal((100, 5)).astype(np.float32) * [1, 2, 3, 4, 5]
        result = moments(features, batch_size)
        assert result.count == 100
        np.testing.assert_allclose(result.mean, features.mean(0), rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(result.covariance, np.cov(features.T), rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(result.covariance, result.covariance.T)

    def test_large_means_keep_the_variance(self):
        # Multiples of 1/64 around 1e4 are exact in float32, so the reference is computed from the deviations alone.
        deviations = np.random.default_rng(0).integers(-64, 65, (3000, 4)) / 64
        features = (1e4 + deviations).astype(np.float32)
        for batch_size in (1, 128):
            result = moments(features, batch_size)
            np.testing.assert_allclose(result.covariance, np.cov(deviations.T), rtol=1e-9, atol=1e-10)

    def test_batches_with_means_far_apart(self):
        features = np.concatenate([np.zeros((3, 2)), np.full((1, 2), 8.0)])
        # Mean 2; squares 3 * 4 + 36 = 48; divided by 3.
        result = moments(features, 3)
        assert result.mean.tolist() == [2, 2]
        np.testing.assert_allclose(result.covariance, np.full((2, 2), 16), rtol=1e-15)

    def test_the_factors_square_is_the_covariance_and_follows_updates(self):
        rng = np.random.default_rng(0)
        result = moments(rng.standard_normal((20, 5)))
        np.testing.assert_allclose(result.covariance_factor @ result.covariance_factor.T, result.covariance, atol=1e-14)
        assert result.covariance_factor is result.covariance_factor, "it is kept"
        result.update(10 * rng.standard_normal((20, 5)))
        np.testing.assert_allclose(result.covariance_factor @ result.covariance_factor.T, result.covariance, atol=1e-12)

    def test_neither_batches_nor_earlier_results_are_changed(self):
        batch = np.arange(6.0).reshape(3, 2)
        before = batch.copy()
        result = moments(batch)
        mean, covariance = result.mean, result.covariance
        kept = mean.copy(), covariance.copy()
        result.update(batch + 1)
        np.testing.assert_array_equal(batch, before)
        np.testing.assert_array_equal(mean, kept[0])
        np.testing.assert_array_equal(covariance, kept[1])

    def test_arrays_go_on_where_they_were_taken(self):
        features = np.random.default_rng(0).standard_normal((30, 4))
        half = moments(features[:20])
        copied = Moments.from_arrays({**copy.deepcopy(half.to_arrays()), "other": np.eye(2)})
        for result in (half, copied):
            result.update(features[20:])
        assert copied.count == 30
        np.testing.assert_array_equal(copied.mean, half.mean)
        np.testing.assert_array_equal(copied.covariance, half.covariance)

    def test_no_or_other_arrays_are_refused(self):
        with pytest.raises(ValueError, match="no features yet"):
            Moments().to_arrays()
        for arrays in ({"x": np.zeros(2)}, {"count": np.array(2), "mean": np.zeros(3), "scatter": np.zeros((2, 2))}):
            with pytest.raises(ValueError, match="invalid moments of features"):
                Moments.from_arrays(arrays)

    def test_wrong_shapes_are_refused(self):
        result = Moments()
        for shape in ((4,), (2, 3, 4), (0, 3)):
            with pytest.raises(ValueError, match=r"expected a non-empty \[n, d\]"):
                result.update(np.zeros(shape))
        with pytest.raises(ValueError, match="NaN or infinity"):
            result.update(np.array([[np.inf]]))
        result.update(np.ones((1, 3)))
        with pytest.raises(ValueError, match="4 features per sample; earlier ones had 3"):
            result.update(np.ones((2, 4)))
        with pytest.raises(ValueError, match="at least 2 samples, but there are 1"):
            _ = result.covariance


class TestFrechetDistance:
    def test_one_feature_by_hand(self):
        # Means 0 and 3, variances 1 and 4: 9 + (1 - 2)^2.
        a, b = moments(np.array([[-1.0], [0.0], [1.0]])), moments(np.array([[1.0], [3.0], [5.0]]))
        assert frechet_distance(a, b) == pytest.approx(10, rel=1e-14)

    def test_commuting_covariances_have_a_closed_form(self):
        rng = np.random.default_rng(0)
        axes, _ = np.linalg.qr(rng.standard_normal((6, 6)))
        a, b = rng.uniform(0.1, 4, (2, 6))
        shift = rng.standard_normal(6)
        for basis in (np.eye(6), axes):
            left = with_moments(np.zeros(6), basis @ np.diag(a) @ basis.T)
            right = with_moments(shift, basis @ np.diag(b) @ basis.T, seed=1)
            expected = shift @ shift + np.square(np.sqrt(a) - np.sqrt(b)).sum()
            assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-12)

    def test_other_covariances_against_scipys_matrix_root(self):
        a, b = random_covariance(1), random_covariance(2)
        assert np.abs(a @ b - b @ a).max() > 0.1, "they do not commute"
        shift = np.arange(6.0)
        expected = shift @ shift + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
        left, right = with_moments(shift, a), with_moments(np.zeros(6), b, seed=1)
        assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-12)
        assert frechet_distance(right, left) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("samples", [1024, 64])
    def test_a_set_is_at_no_distance_from_itself(self, samples):
        features = moments(np.random.default_rng(0).standard_normal((samples, 256)))
        assert abs(frechet_distance(features, features)) < 1e-13 * np.trace(features.covariance)

    def test_covariances_of_low_rank(self):
        rng = np.random.default_rng(0)
        scales = np.geomspace(1, 1e-2, 256)
        x, y = scales * rng.standard_normal((64, 256)), 0.5 + scales * rng.standard_normal((80, 256))
        # The roots of the eigenvalues of A B are the singular values of the product of the centred samples.
        left, right = (x - x.mean(0)) / np.sqrt(63), (y - y.mean(0)) / np.sqrt(79)
        expected = (
            np.square(x.mean(0) - y.mean(0)).sum()
            + np.square(left).sum()
            + np.square(right).sum()
            - 2 * np.linalg.svd(left @ right.T, compute_uv=False).sum()
        )
        a, b = moments(x), moments(y)
        for distance in (frechet_distance(a, b), frechet_distance(b, a)):
            assert isinstance(distance, float)
            assert distance == pytest.approx(expected, rel=1e-12)
        # The saving for few samples: no matrix of theirs has more columns than the samples' degrees of freedom.
        assert a.covariance_factor.shape == (256, 63)
        assert b.covariance_factor.shape == (256, 79)

    def test_no_variance_on_one_side_or_on_both(self):
        still, moving = np.full((5, 3), 0.1, np.float32), np.eye(3) * 2
        assert frechet_distance(moments(still), moments(still)) == pytest.approx(0, abs=1e-14)
        shift = np.square(moving.mean(0) - np.float32(0.1)).sum()
        trace = 3 * np.var([2, 0, 0], ddof=1)
        assert frechet_distance(moments(still), moments(moving)) == pytest.approx(shift + trace, rel=1e-12)
        assert frechet_distance(moments(moving), moments(still)) == pytest.approx(shift + trace, rel=1e-12)

    def test_each_side_is_factored_once(self):
        rng = np.random.default_rng(0)
        real, fakes = moments(rng.standard_normal((50, 4))), [moments(rng.standard_normal((50, 4))) for _ in range(3)]
        with mock.patch.object(metrics, "dpstrf", wraps=metrics.dpstrf) as factor:
            assert len({frechet_distance(real, fake) for fake in fakes}) == 3
        assert factor.call_count == 4

    def test_what_cannot_be_compared_is_refused(self):
        with pytest.raises(ValueError, match="2 features on one side and 3 on the other"):
            frechet_distance(moments(np.eye(2)), moments(np.eye(3)))
        with pytest.raises(ValueError, match="at least 2 samples"):
            frechet_distance(moments(np.eye(2)), moments(np.ones((1, 2))))


class TestKernelDistance:
    @pytest.mark.parametrize("block_rows", [2, 512])
    def test_is_what_loops_over_the_pairs_give(self, monkeypatch, block_rows):
        monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((7, 3)).astype(np.float32), rng.standard_normal((5, 3)).astype(np.float32) + 1

        def mean(pairs):
            return np.mean([(float(np.dot(a.astype(float), b.astype(float))) / 3 + 1) ** 3 for a, b in pairs])

        expected = (
            mean([(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
            + mean([(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
            - 2 * mean([(a, b) for a in x for b in y])
        )
        assert metrics.kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)

    def test_two_points_by_hand(self):
        # d = 1: k(0, .) = 1, k(1, 1) = 8. Sides {0, 0} and {1, 1}: 1 + 8 - 2.
        assert metrics.kernel_distance(np.zeros((2, 1)), np.ones((2, 1))) == pytest.approx(7, rel=1e-14)

    def test_is_unbiased(self):
        rng = np.random.default_rng(0)
        draws = rng.standard_normal((4000, 9, 2))
        values = np.array([metrics.kernel_distance(draw[:4], draw[4:]) for draw in draws])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean()) < 3 * error
        # With the diagonals, whose mean is 16 compared with 2.5 for other pairs, it would be 13.5 / 4 + 13.5 / 5.
        assert error < 0.1 and values.min() < 0

    def test_wrong_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected at least 2 each"):
            metrics.kernel_distance(np.zeros((1, 3)), np.zeros((5, 3)))
        with pytest.raises(ValueError, match="3 features on one side and 4 on the other"):
            metrics.kernel_distance(np.zeros((5, 3)), np.zeros((5, 4)))


def brute_force(real, fake, k):
    """Computes precision, recall, density and coverage, by loops over exact distances."""

    def balls(centres):
        return [sorted(math.dist(a, b) for b in centres)[k] for a in centres]

    in_real = [[math.dist(f, r) <= radius for r, radius in zip(real, balls(real))] for f in fake]
    in_fake = [[math.dist(r, f) <= radius for f, radius in zip(fake, balls(fake))] for r in real]
    return (
        np.mean([any(row) for row in in_real]),
        np.mean([any(row) for row in in_fake]),
        np.sum(in_real) / (k * len(fake)),
        np.mean(np.any(in_real, axis=0)),
    )


def all_four(real, fake, k):
    return (*metrics.precision_recall(real, fake, k), *metrics.density_coverage(real, fake, k))


def on_a_line(*places):
    return np.array(places, np.float32)[:, np.newaxis]


class TestNeighbours:
    def test_points_on_a_line_by_hand(self):
        real, fake = on_a_line(0, 1, 3, 10), on_a_line(0.5, 4.5, 30, 31)
        # k = 1. The real radii are 1, 1, 2, 7: balls [-1, 1], [0, 2], [1, 5], [3, 17]. 0.5 is in two of them, 4.5 in
        # two, 30 and 31 in none; all four contain a fake.
        assert metrics.density_coverage(real, fake, k=1) == (1.0, 1.0)
        # The fake radii are 4, 4, 1, 1: balls [-3.5, 4.5], [0.5, 8.5], ...: 0, 1 and 3 are in one, 10 is not.
        assert metrics.precision_recall(real, fake, k=1) == (0.5, 0.75)
        # k = 2: radii 3, 2, 3, 9; [-3, 3], [-1, 3], [0, 6], [1, 19] contain 0.5 three times and 4.5 twice.
        density, coverage = metrics.density_coverage(real, fake, k=2)
        assert (density, coverage) == (5 / (2 * 4), 1.0)

    def test_an_edge_belongs_to_the_ball(self):
        real = on_a_line(0, 1)
        assert metrics.density_coverage(real, on_a_line(2), k=1) == (1.0, 0.5)
        assert metrics.density_coverage(real, on_a_line(2.001), k=1) == (0.0, 0.0)

    @pytest.mark.parametrize("block_rows", [3, 512])
    @pytest.mark.parametrize("k", [1, 3, 6])
    def test_is_what_brute_force_gives(self, monkeypatch, k, block_rows):
        monkeypatch.setattr(metrics, "BLOCK_ROWS", block_rows)
        rng = np.random.default_rng(k)
        real, fake = rng.standard_normal((40, 3)), 0.7 * rng.standard_normal((25, 3)) + 0.6
        expected = brute_force(real, fake, k)
        assert 0.2 < expected[3] < 0.99, "not all balls hold a fake"
        assert all_four(real, fake, k) == pytest.approx(expected, rel=1e-12)

    def test_ties_and_copies_are_counted_like_exact_distances(self):
        # A grid has many neighbours at equal distances, and duplicate points have balls of radius 0.
        grid = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(-1, 2)
        for real, fake in ((grid, grid), (np.repeat(grid, 2, 0), grid + [1, 0]), (grid / 7, np.repeat(grid / 7, 3, 0))):
            assert all_four(real, fake, 1) == pytest.approx(brute_force(real, fake, 1), rel=1e-12)
            assert all_four(real, fake, 2) == pytest.approx(brute_force(real, fake, 2), rel=1e-12)

    def test_samples_that_are_all_the_same(self):
        # Every ball is this one point, equal to all four fakes: each fake is in 6 balls.
        assert metrics.density_coverage(np.ones((6, 2)), np.ones((4, 2)), k=2) == (3, 1)
        assert metrics.precision_recall(np.ones((6, 2)), np.ones((4, 2))) == (1, 1)

    def test_copies_far_from_the_origin_of_many_features(self):
        rng = np.random.default_rng(0)
        real = 1e4 + rng.standard_normal((60, 300))
        # Each sample is in its own ball and, edges included, in those of the k samples of which it is a k-nearest
        # neighbour.
        assert metrics.density_coverage(real, real[::-1], k=5) == pytest.approx((6 / 5, 1), rel=1e-12)
        assert metrics.precision_recall(real, real[rng.permutation(60)], k=3) == (1.0, 1.0)
        doubled = np.repeat(real, 2, 0)
        assert metrics.density_coverage(doubled, doubled, k=1) == pytest.approx((2, 1), rel=1e-12)
        assert metrics.density_coverage(doubled, doubled + 1e-3, k=1) == (0, 0), "balls of radius 0"

    def test_expectations_for_equal_distributions(self):
        # The fake is equally likely to have each rank among the neighbours: E density = 1, and a ball is empty if the k
        # nearest of all n - 1 + m are real (Naeem et al., 2020).
        n, m, k, draws = 12, 9, 3, 1500
        samples = np.random.default_rng(0).standard_normal((draws, n + m, 4))
        values = np.array([metrics.density_coverage(draw[:n], draw[n:], k) for draw in samples])
        empty = math.prod((n - 1 - i) / (n + m - 1 - i) for i in range(k))
        errors = values.std(0) / np.sqrt(draws)
        assert errors.max() < 0.015
        assert (np.abs(values.mean(0) - [1, 1 - empty]) < 3 * errors).all()

    def test_wrong_input_is_refused(self):
        points = np.random.default_rng(0).standard_normal((6, 2))
        for k in (0, 6):
            with pytest.raises(ValueError, match=f"k={k} with 6 samples; valid: 1 to 5"):
                metrics.density_coverage(points, points, k)
        with pytest.raises(ValueError, match="k=3 with 2 samples"):
            metrics.precision_recall(points, points[:2])
        with pytest.raises(ValueError, match="2 features on one side and 1 on the other"):
            metrics.precision_recall(points, points[:, :1])
        with pytest.raises(ValueError, match="NaN or infinity"):
            metrics.density_coverage(points, np.full((3, 2), np.nan))


def test_effective_classes_are_the_exponential_of_the_entropy() -> None:
    assert metrics.effective_classes(np.array([7, 7, 7])) == pytest.approx(3)
    assert metrics.effective_classes(np.array([4, 4, 0, 8])) == pytest.approx(2**1.5)  # H = 1.5 bits
    assert metrics.effective_classes(np.array([0, 9])) == pytest.approx(1)
