"""Metrics of generated videos, computed from class probabilities or features of a network.

Uses only NumPy and SciPy. Sums are float64 for any input dtype. The inception score and the moments are accumulated
batch by batch, without storing samples; the other metrics compare samples pairwise, in blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf

LOG_EPSILON = 1e-20  # added to probabilities before the logarithm, as in the authors' code
BLOCK_ROWS = 512  # samples compared with all others at a time
# Relative to the largest squared norm. Squared distances from a matrix product that differ by less count as equal; the
# measured rounding error is 7e-15 for 4096 features.
DISTANCE_TOLERANCE = 1e-12


def _matrix(values: np.ndarray, what: str) -> np.ndarray:
    """Returns the values as float64 [n, d].

    Raises:
      ValueError: the shape is wrong, or the array is empty or not finite.
    """
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{what} of shape {list(matrix.shape)}; expected a non-empty [n, d]")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{what} contain NaN or infinity")
    return matrix


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets of features of the same network as float64 [n, d] and [m, d]."""
    x, y = _matrix(x, "features"), _matrix(y, "features")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} features on one side and {y.shape[1]} on the other; expected equal numbers")
    return x, y


class InceptionScore:
    """Inception score, exp(mean KL(p(y | x) || p(y))) (Salimans et al., 2016, arXiv:1606.03498, Section 4).

    It ranges from 1 to the number of classes. There is one split: p(y) is the mean over all samples. Memory use does
    not depend on the number of samples.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum = np.zeros(())  # of the probabilities; [K] after the first batch
        self._sum_p_log_p = 0.0

    def update(self, probabilities: np.ndarray) -> None:
        """Adds samples.

        Args:
          probabilities: [n, K], one softmax output per row.
        Raises:
          ValueError: the shape is wrong, K has changed, or rows are not probabilities.
        """
        rows = _matrix(probabilities, "probabilities")
        if self._count and rows.shape[1] != self._sum.size:
            raise ValueError(f"probabilities of {rows.shape[1]} classes; earlier ones had {self._sum.size}")
        if (rows < 0).any() or not np.allclose(rows.sum(1), 1, rtol=0, atol=1e-3):
            raise ValueError("probabilities are negative or rows do not sum to 1; expected softmax outputs")
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._sum_p_log_p += float((rows * np.log(rows + LOG_EPSILON)).sum())

    def result(self) -> float:
        """Returns the score of all samples so far.

        Raises:
          ValueError: there are no samples.
        """
        if not self._count:
            raise ValueError("no probabilities yet")
        mean = self._sum / self._count
        # The second term of the KL divergence, sum p(y | x) log p(y), is linear in p(y | x): the mean is sufficient.
        return float(np.exp(self._sum_p_log_p / self._count - mean @ np.log(mean + LOG_EPSILON)))


def effective_classes(counts: np.ndarray) -> float:
    """Returns exp(H), with the entropy H of the classes of videos: the number of classes if all are equally frequent.

    It detects missing classes, which the inception score may hide.

    Args:
      counts: int [num_classes], number of videos per class, as a classifier finds them; at least one is positive.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


class Moments:
    """Accumulates the mean and covariance of features.

    Memory is one float64 [d, d] (128 MB for 4096 features), plus as much for each covariance or factor computed.

    Attributes:
      count: samples so far.
      mean: float64 [d].
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))  # lower triangle of sum (x - mean) (x - mean)^T

    def update(self, features: np.ndarray) -> None:
        """Adds samples.

        Each batch is centred on its own mean and then merged (Chan et al., 1979), so that no precision is lost if means
        are large compared with deviations.

        Args:
          features: [n, d]. Batches of at least 32 are efficient.
        Raises:
          ValueError: the shape is wrong, d has changed, or a feature is not finite.
        """
        rows = _matrix(features, "features")
        if not self.count:
            self.mean = np.zeros(rows.shape[1])
            self._scatter = np.zeros((rows.shape[1],) * 2, order="F")
        elif rows.shape[1] != self.mean.size:
            raise ValueError(f"{rows.shape[1]} features per sample; earlier ones had {self.mean.size}")
        n, total = len(rows), self.count + len(rows)
        batch_mean = rows.mean(0)
        shift = batch_mean - self.mean
        # The difference of the two means contributes to the scatter like one more row.
        between = np.sqrt(self.count * n / total) * shift
        rows = np.vstack([rows - batch_mean, between])
        # In place and one triangle only: three times as fast as `+= rows.T @ rows` for small batches.
        self._scatter = dsyrk(1.0, rows.T, beta=1.0, c=self._scatter, lower=1, overwrite_c=1)
        self.mean = self.mean + shift * (n / total)
        self.count = total
        self.__dict__.pop("covariance_factor", None)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance (divided by n - 1), float64 [d, d], exactly symmetric.

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
        """Factor F with F F^T = covariance, float64 [d, r], r the rank of the covariance; cached until the next update.

        The pivoted Cholesky decomposition takes a tenth of the time of an eigendecomposition, and stops at the rank,
        which is less than the number of samples.

        Raises:
          ValueError: fewer than two samples.
        """
        # It stops when all remaining variances are below d * 1e-16 of the largest one, i.e. rounding errors.
        lower, order, rank, _ = dpstrf(self.covariance, lower=1, overwrite_a=1)
        factor = np.empty((len(lower), rank), order="F")
        factor[order - 1] = np.tril(lower[:, :rank])
        return factor

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the complete state as named arrays, for an .npz.

        Raises:
          ValueError: no samples yet.
        """
        if not self.count:
            raise ValueError("no features yet")
        return {"count": np.array(self.count), "mean": self.mean, "scatter": self._scatter}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Restores the result of `to_arrays`. More samples can be added; other arrays are ignored.

        Raises:
          ValueError: an array is missing or has the wrong shape.
        """
        shapes = {name: arrays[name].shape for name in ("count", "mean", "scatter") if name in arrays}
        size = arrays["mean"].size if "mean" in arrays else 0
        if shapes != {"count": (), "mean": (size,), "scatter": (size, size)}:
            raise ValueError(f"invalid moments of features: shapes {shapes}")
        moments = cls()
        moments.count = int(arrays["count"])
        moments.mean, moments._scatter = arrays["mean"], arrays["scatter"]
        return moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians, |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    It is FID (Heusel et al., 2017, arXiv:1706.08500) for features of an image or clip network, and FVD (Unterthiner et
    al., 2018, arXiv:1812.01717) for those of I3D. tr((A B)^(1/2)) is the sum of the singular values of F^T G, where
    F F^T = A and G G^T = B. No complex numbers appear, covariances may have any rank, and F^T G is small if one side
    has few samples. The singular values are the square roots of the eigenvalues of its Gram matrix. For equal
    distributions the result is 0 within 1e-7 of the covariance's trace, and may be negative.

    Args:
      a, b: the two sides; their cached `covariance_factor` is reused.
    Raises:
      ValueError: the numbers of features differ, or a side has fewer than two samples.
    """
    if a.mean.size != b.mean.size:
        raise ValueError(f"{a.mean.size} features on one side and {b.mean.size} on the other; expected equal numbers")
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
    """Mean of the kernel over all pairs of distinct samples."""
    of_themselves = ((np.square(x).sum(1) / x.shape[1] + 1) ** 3).sum()
    return float((_kernel_sum(x, x) - of_themselves) / (len(x) * (len(x) - 1)))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel (x . y / d + 1)^3.

    It is KID (Binkowski et al., 2018, arXiv:1801.01401), or KVD (Unterthiner et al., 2018, arXiv:1812.01717) for
    features of I3D. The estimator is unbiased: for equal distributions its expectation is 0 for any number of samples,
    so it can be negative.

    Args:
      x: features [n, d] of one side, n at least 2.
      y: features [m, d] of the other side, m at least 2.
    Raises:
      ValueError: the shapes are wrong, or a feature is not finite.
    """
    x, y = _pair(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{len(x)} samples on one side and {len(y)} on the other; expected at least 2 each")
    return _mean_of_others(x) + _mean_of_others(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the matrix |x_i - y_j|^2, [n, m], in blocks of rows."""
    squared_norms = np.square(y).sum(1)
    for i in range(0, len(x), BLOCK_ROWS):
        block = x[i : i + BLOCK_ROWS]
        yield np.square(block).sum(1)[:, np.newaxis] + squared_norms - 2 * block @ y.T


def _incidence(points: np.ndarray, centres: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts which points lie in which balls. A ball's radius is the distance to its k-th nearest centre, inclusive.

    Returns:
      The number of balls that contain each point, int [n]; the number of points in each ball, int [m].
    """
    if not 1 <= k < len(centres):
        raise ValueError(f"k={k} with {len(centres)} samples; valid: 1 to {len(centres) - 1}")
    origin = centres.mean(0)  # centring minimizes the rounding error of the matrix product
    points, centres = points - origin, centres - origin
    largest = max(np.square(points).sum(1).max(), np.square(centres).sum(1).max())
    # Index 0 is the centre itself.
    radii = np.concatenate([np.partition(block, k)[:, k] for block in _squared_distances(centres, centres)])
    radii += DISTANCE_TOLERANCE * largest
    balls_of_points, points_in_balls = [], np.zeros(len(centres), int)
    for block in _squared_distances(points, centres):
        inside = block <= radii
        balls_of_points.append(inside.sum(1))
        points_in_balls += inside.sum(0)
    return np.concatenate(balls_of_points), points_in_balls


class PrecisionRecall(NamedTuple):
    """Precision and recall, both in [0, 1]."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density (at least 0, may exceed 1) and coverage in [0, 1]."""

    density: float
    coverage: float


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al., 2019, arXiv:1904.06991, Section 2).

    Precision is the fraction of fake samples that lie in the ball of some real sample; its radius is the distance to
    the k-th nearest real neighbour, inclusive. Recall is the same with real and fake exchanged.

    Args:
      real: features [n, d], n > k.
      fake: features [m, d], m > k.
      k: number of the neighbour that defines the radius.
    Raises:
      ValueError: the shapes are wrong, a feature is not finite, or k is too large.
    """
    real, fake = _pair(real, fake)
    balls_of_fakes, _ = _incidence(fake, real, k)
    balls_of_reals, _ = _incidence(real, fake, k)
    return PrecisionRecall(float((balls_of_fakes > 0).mean()), float((balls_of_reals > 0).mean()))


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al., 2020, arXiv:2002.09797, Section 3), which are robust to real outliers.

    Density is the mean number of real balls (as in `precision_recall`) that contain a fake sample, divided by k. Its
    expectation is 1 if both sides have the same distribution. Coverage is the fraction of real samples whose ball
    contains a fake sample.

    Args:
      real: features [n, d], n > k.
      fake: features [m, d].
      k: number of the neighbour that defines the radius.
    Raises:
      ValueError: the shapes are wrong, a feature is not finite, or k is too large.
    """
    real, fake = _pair(real, fake)
    balls_of_fakes, fakes_in_balls = _incidence(fake, real, k)
    return DensityCoverage(float(balls_of_fakes.mean()) / k, float((fakes_in_balls > 0).mean()))
