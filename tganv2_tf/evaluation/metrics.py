"""Scores of generated videos from what a network says of them: class probabilities or features.

NumPy and SciPy only. Sums are float64, whatever comes in. Inception score and moments take their samples batch by batch
and keep none of them; the other scores compare samples with one another, and do it in blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf

LOG_EPSILON = 1e-20  # the authors add it to probabilities before the logarithm
BLOCK_ROWS = 512  # samples that are compared with all others at a time
# Squared distances come out of a matrix product. Those that differ by less, relative to the largest squared norm, are
# equal but for its rounding, which was 7e-15 for 4096 features.
DISTANCE_TOLERANCE = 1e-12


def _matrix(values: np.ndarray, what: str) -> np.ndarray:
    """float64 [n, d].

    Raises:
      ValueError: another shape, nothing in it, or a number that is not finite.
    """
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{what} of shape {list(matrix.shape)}; expected [n, d], neither of them 0")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{what} with NaN or infinity among them")
    return matrix


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features of the same network, float64 [n, d] and [m, d]."""
    x, y = _matrix(x, "features"), _matrix(y, "features")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} features on one side and {y.shape[1]} on the other; expected as many")
    return x, y


class InceptionScore:
    """exp of the mean divergence KL(p(y | x) || p(y)) (Salimans et al., 2016), from 1 to the number of classes.

    One split: p(y) is the mean over all samples. Memory does not grow with their number.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum = np.zeros(())  # of the probabilities; [K] from the first batch on
        self._sum_p_log_p = 0.0

    def update(self, probabilities: np.ndarray) -> None:
        """Adds samples.

        Args:
          probabilities: [n, K], each row the softmax of a sample.
        Raises:
          ValueError: another shape or another K than before, or rows that are no probabilities.
        """
        rows = _matrix(probabilities, "probabilities")
        if self._count and rows.shape[1] != self._sum.size:
            raise ValueError(f"probabilities of {rows.shape[1]} classes after those of {self._sum.size}")
        if (rows < 0).any() or not np.allclose(rows.sum(1), 1, rtol=0, atol=1e-3):
            raise ValueError("probabilities below 0 or whose rows do not add up to 1; expected the output of a softmax")
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._sum_p_log_p += float((rows * np.log(rows + LOG_EPSILON)).sum())

    def result(self) -> float:
        """The score of all samples so far.

        Raises:
          ValueError: there are none.
        """
        if not self._count:
            raise ValueError("no probabilities yet")
        mean = self._sum / self._count
        # The second term of the divergence has the same logarithms for all samples, so their mean is all it needs.
        return float(np.exp(self._sum_p_log_p / self._count - mean @ np.log(mean + LOG_EPSILON)))


class Moments:
    """Mean and covariance of features, batch by batch.

    Memory is one float64 [d, d] (128 MB for 4096 features), and as much again for each result that is asked for.

    Attributes:
      count: samples so far.
      mean: float64 [d].
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))  # sum of (x - mean) (x - mean)^T, the lower triangle of it

    def update(self, features: np.ndarray) -> None:
        """Adds samples.

        Each batch is taken from its own mean and merged with those before it (Chan et al., 1979), so that means that
        are large beside the deviations cost no digits.

        Args:
          features: [n, d]. Batches of 32 and more keep the processor busy.
        Raises:
          ValueError: another shape, another d than before, or a feature that is not finite.
        """
        rows = _matrix(features, "features")
        if not self.count:
            self.mean = np.zeros(rows.shape[1])
            self._scatter = np.zeros((rows.shape[1],) * 2, order="F")
        elif rows.shape[1] != self.mean.size:
            raise ValueError(f"{rows.shape[1]} features a sample after {self.mean.size}")
        n, total = len(rows), self.count + len(rows)
        batch_mean = rows.mean(0)
        shift = batch_mean - self.mean
        # What lies between the two means adds to the scatter as one more row would.
        between = np.sqrt(self.count * n / total) * shift
        rows = np.vstack([rows - batch_mean, between])
        # In place and one triangle only: for small batches three times as fast as `+= rows.T @ rows`.
        self._scatter = dsyrk(1.0, rows.T, beta=1.0, c=self._scatter, lower=1, overwrite_c=1)
        self.mean = self.mean + shift * (n / total)
        self.count = total
        self.__dict__.pop("covariance_factor", None)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased (divided by n - 1), float64 [d, d], exactly symmetric.

        Raises:
          ValueError: fewer than two samples.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, but there are {self.count}")
        covariance = np.tril(self._scatter)
        covariance += np.tril(self._scatter, -1).T
        covariance /= self.count - 1
        return covariance

    @functools.cached_property
    def covariance_factor(self) -> np.ndarray:
        """F with F F^T = covariance, float64 [d, r], where r is the covariance's rank; kept until the next update.

        By Cholesky's method with pivots, which needs a tenth of the time of eigenvectors and stops at the rank: that is
        below the number of samples.

        Raises:
          ValueError: fewer than two samples.
        """
        # It stops where what remains of every variance is below d * 1e-16 of the largest one: rounding.
        lower, order, rank, _ = dpstrf(self.covariance, lower=1, overwrite_a=1)
        factor = np.empty((len(lower), rank), order="F")
        factor[order - 1] = np.tril(lower[:, :rank])
        return factor

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All there is to know, by names, for an .npz.

        Raises:
          ValueError: no samples yet.
        """
        if not self.count:
            raise ValueError("no features yet")
        return {"count": np.array(self.count), "mean": self.mean, "scatter": self._scatter}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Moments out of what `to_arrays` gave, to which more samples can be added. Other names are left alone.

        Raises:
          ValueError: an array is missing or has another shape.
        """
        shapes = {name: arrays[name].shape for name in ("count", "mean", "scatter") if name in arrays}
        size = arrays["mean"].size if "mean" in arrays else 0
        if shapes != {"count": (), "mean": (size,), "scatter": (size, size)}:
            raise ValueError(f"no moments of features: {shapes}")
        moments = cls()
        moments.count = int(arrays["count"])
        moments.mean, moments._scatter = arrays["mean"], arrays["scatter"]
        return moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), the squared Frechet distance of two Gaussians (Heusel et al., 2017).

    FID of the features of an image or clip network, FVD of those of I3D. The third trace is the sum of the singular
    values of F^T G, where F F^T = A and G G^T = B: nothing becomes complex, covariances may be of any rank, and few
    samples on one side make it small. They are the roots of the eigenvalues of its Gram matrix. Equal sides give 0
    within 1e-7 of the trace of the covariance, and maybe less than 0.

    Args:
      a, b: the two sides; what `covariance_factor` keeps of each is used again.
    Raises:
      ValueError: other numbers of features, or fewer than two samples.
    """
    if a.mean.size != b.mean.size:
        raise ValueError(f"{a.mean.size} features on one side and {b.mean.size} on the other; expected as many")
    left, right = a.covariance_factor, b.covariance_factor
    product = left.T @ right if left.shape[1] < right.shape[1] else right.T @ left
    gram = dsyrk(1.0, product, lower=1) if product.size else np.zeros((1, 1))
    eigenvalues = scipy.linalg.eigvalsh(gram, driver="evr", overwrite_a=True, check_finite=False)
    shift = a.mean - b.mean
    traces = np.square(left).sum() + np.square(right).sum()
    return float(shift @ shift + traces - 2 * np.sqrt(np.maximum(eigenvalues, 0)).sum())


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of (x_i . y_j / d + 1)^3 over all i and j."""
    blocks = range(0, len(x), BLOCK_ROWS)
    return float(sum(((x[i : i + BLOCK_ROWS] @ y.T / x.shape[1] + 1) ** 3).sum() for i in blocks))


def _mean_of_others(x: np.ndarray) -> float:
    """Mean of the kernel over all pairs of different samples."""
    of_themselves = ((np.square(x).sum(1) / x.shape[1] + 1) ** 3).sum()
    return float((_kernel_sum(x, x) - of_themselves) / (len(x) * (len(x) - 1)))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (KID: Binkowski et al., 2018).

    KVD of features of I3D (Unterthiner et al., 2019). Unbiased: its expectation for samples of the same distribution is
    0 at any number of them, so that it can be below 0.

    Args:
      x: features [n, d] of one side, n of at least 2.
      y: features [m, d] of the other, m of at least 2.
    Raises:
      ValueError: other shapes, or a feature that is not finite.
    """
    x, y = _pair(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{len(x)} samples on one side and {len(y)} on the other; expected at least 2 each")
    return _mean_of_others(x) + _mean_of_others(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows of |x_i - y_j|^2, [n, m] in all."""
    squared_norms = np.square(y).sum(1)
    for i in range(0, len(x), BLOCK_ROWS):
        block = x[i : i + BLOCK_ROWS]
        yield np.square(block).sum(1)[:, np.newaxis] + squared_norms - 2 * block @ y.T


def _incidence(points: np.ndarray, centres: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Which points lie in which balls. A ball reaches from its centre to the k-th nearest of the others, edge included.

    Returns:
      For each point the number of balls that it lies in, int [n]; for each ball the number of points in it, int [m].
    """
    if not 1 <= k < len(centres):
        raise ValueError(f"k={k} with {len(centres)} samples, each of which has {len(centres) - 1} neighbours")
    origin = centres.mean(0)  # near zero the matrix product rounds least
    points, centres = points - origin, centres - origin
    largest = max(np.square(points).sum(1).max(), np.square(centres).sum(1).max())
    # A centre is the nearest to itself, number 0 in the order.
    radii = np.concatenate([np.partition(block, k)[:, k] for block in _squared_distances(centres, centres)])
    radii += DISTANCE_TOLERANCE * largest
    balls_of_points, points_in_balls = [], np.zeros(len(centres), int)
    for block in _squared_distances(points, centres):
        inside = block <= radii
        balls_of_points.append(inside.sum(1))
        points_in_balls += inside.sum(0)
    return np.concatenate(balls_of_points), points_in_balls


class PrecisionRecall(NamedTuple):
    """Both from 0 to 1."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density is at least 0 and may be above 1; coverage is from 0 to 1."""

    density: float
    coverage: float


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al., 2019).

    Precision is the share of fakes that lie in some real sample's ball, which reaches to its k-th nearest real
    neighbour, edge included. Recall is the same with the sides exchanged.

    Args:
      real: features [n, d], n above k.
      fake: features [m, d], m above k.
      k: which neighbour.
    Raises:
      ValueError: other shapes, a feature that is not finite, or too large a k.
    """
    real, fake = _pair(real, fake)
    balls_of_fakes, _ = _incidence(fake, real, k)
    balls_of_reals, _ = _incidence(real, fake, k)
    return PrecisionRecall(float((balls_of_fakes > 0).mean()), float((balls_of_reals > 0).mean()))


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al., 2020), which single outliers among the real samples move little.

    Density is the mean number of real balls, as in `precision_recall`, that a fake lies in, divided by k. Coverage is
    the share of real samples whose ball holds a fake. Where both sides are of the same distribution, the expected
    density is 1.

    Args:
      real: features [n, d], n above k.
      fake: features [m, d].
      k: which neighbour.
    Raises:
      ValueError: other shapes, a feature that is not finite, or too large a k.
    """
    real, fake = _pair(real, fake)
    balls_of_fakes, fakes_in_balls = _incidence(fake, real, k)
    return DensityCoverage(float(balls_of_fakes.mean()) / k, float((fakes_in_balls > 0).mean()))
