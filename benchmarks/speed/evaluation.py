"""Cost of the metrics: the Frechet distance against SciPy's matrix square root, C3D against its roofline.

python -m benchmarks.speed.evaluation
python -m benchmarks.speed.evaluation --rounds=5 --output=evaluation.json

C3D's baseline is its roofline: the clips per second of a network that computes only its multiply-adds, at the rate of
the matrix products measured in the same round. The exit status is 1 if the two distances differ.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed.rows import Row, compared, report
from tganv2_tf import cli
from tganv2_tf.options import option, require

if TYPE_CHECKING:
    from tganv2_tf.evaluation.metrics import Moments

MATRIX = 2048  # rows and columns of the matrix products
TOLERANCE = 1e-6  # relative to the sum of the variances: the accuracy of the general matrix root


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    features: int = option("features per sample, for ours alone", 4096)
    root_features: int = option("features per sample, compared with SciPy's matrix root", 1024)
    samples: int = option("generated samples; there are twice as many real samples as features", 2048)
    clips: int = option("clips per C3D batch", 4)
    side: int = option("height and width of C3D's input in pixels", 112)
    rounds: int = option("number of measurements", 3)
    output: str = option("also write the table to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        for name, least in (("features", 2), ("root_features", 2), ("samples", 2), ("clips", 1), ("rounds", 1)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"a whole number of at least {least}")
        require(self.side >= 32, "side", self.side, "a whole number of at least 32")


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the duration and the result of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def moments(samples: int, features: int, seed: int) -> Moments:
    """Returns moments of samples that resemble C3D features: rectified and correlated."""
    from tganv2_tf.evaluation.metrics import Moments

    mixing = np.random.default_rng(0).standard_normal((features, features), np.float32) / np.sqrt(features)
    rng, result = np.random.default_rng(seed), Moments()
    for first in range(0, samples, 1024):
        rows = rng.standard_normal((min(1024, samples - first), features), np.float32)
        result.update(np.maximum(rows @ mixing + 0.1 * seed, 0))
    return result


def textbook_distance(a: Moments, b: Moments) -> float:
    """Computes the Frechet distance with a general matrix root, as most implementations do."""
    import scipy.linalg

    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root))


def without_cache(side: Moments) -> Moments:
    """Returns the same moments without cached results."""
    from tganv2_tf.evaluation.metrics import Moments

    return Moments.from_arrays(side.to_arrays())


def distance_rows(command: Command) -> tuple[list[Row], float]:
    """Returns the rows of the Frechet distance, and its error relative to the sum of the variances."""
    from tganv2_tf.evaluation.metrics import frechet_distance

    real, fake = (
        moments(samples, command.root_features, seed)
        for seed, samples in enumerate((2 * command.root_features, command.samples))
    )
    ours, textbook, errors = [], [], []
    for _ in range(command.rounds):
        a, b = without_cache(real), without_cache(fake)
        took, distance = seconds(lambda: frechet_distance(a, b))  # noqa: B023 (called at once)
        ours.append(took)
        took, expected = seconds(lambda: textbook_distance(real, fake))
        textbook.append(took)
        errors.append(abs(distance - expected) / np.trace(real.covariance + fake.covariance))
    what = f"Frechet distance, {command.root_features} features, {command.samples} samples, against scipy's sqrtm"
    rows = [compared(what, "s", ours, textbook, less_is_better=True)]
    real, fake = (
        moments(samples, command.features, seed) for seed, samples in enumerate((2 * command.features, command.samples))
    )
    firsts: list[float] = []
    others: list[float] = []
    for _ in range(command.rounds):
        a = without_cache(real)
        for times in (firsts, others):
            b = without_cache(fake)
            times.append(seconds(lambda: frechet_distance(a, b))[0])  # noqa: B023 (called at once)
    what = f"Frechet distance, {command.features} features, {command.samples} samples"
    rows += [Row(f"{what}, the first", "s", float(np.median(firsts)))]
    rows += [Row(f"{what}, each further repetition", "s", float(np.median(others)))]
    return rows, max(errors)


def c3d_row(command: Command) -> Row:
    """Compares C3D up to its features with its roofline."""
    import tensorflow as tf

    from tganv2_tf.evaluation.c3d import C3D, C3DConfig
    from tganv2_tf.training.graph_cost import multiply_adds

    network = C3D(C3DConfig(side=command.side))
    clips = tf.random.stateless_uniform([command.clips, 16, command.side, command.side, 3], [0, 0], -1)
    matrix = tf.random.stateless_normal([MATRIX, MATRIX], [0, 1])
    extract_features = tf.function(lambda: network(clips)["fc7"], autograph=False)
    multiply = tf.function(lambda: tf.matmul(matrix, matrix), autograph=False)
    cost = multiply_adds(extract_features.get_concrete_function().outputs)
    extract_features(), multiply()
    ours, roofline = [], []
    for _ in range(command.rounds):
        ours.append(command.clips / seconds(lambda: extract_features().numpy())[0])
        peak = MATRIX**3 / min(seconds(lambda: multiply().numpy())[0] for _ in range(10))
        roofline.append(command.clips * peak / cost)
    what = (
        f"C3D, {command.side} px, {cost / command.clips / 1e9:.1f} billion multiply-adds per clip, against its roofline"
    )
    return compared(what, "clips/s", ours, roofline, less_is_better=False)


def main(command: Command) -> int:
    rows, error = distance_rows(command)
    rows.append(c3d_row(command))
    report("benchmarks.speed.evaluation", rows, command.output)
    if error > TOLERANCE:
        print(f"the two distances differ by {error:.1e} of the sum of the variances", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.evaluation", __doc__))
