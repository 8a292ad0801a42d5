"""Comparison with the numbers of other systems' own code, in tests/data/baselines/."""

from __future__ import annotations

import pathlib

import numpy as np


class Golden:
    """Arrays of one file by name."""

    def __init__(self, name: str) -> None:
        self.arrays = dict(np.load(pathlib.Path(__file__).parent / "data/baselines" / name, allow_pickle=False))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def names(self, prefix: str) -> set[str]:
        """Returns the names that begin with `prefix/`, without it."""
        return {name.removeprefix(f"{prefix}/") for name in self.arrays if name.startswith(f"{prefix}/")}

    def check(self, name: str, actual, tolerance: float = 1e-4, step: float = 0.0) -> None:
        """Asserts that an array equals that of the file within `tolerance` times its largest value.

        Three weights in a thousand may differ by up to two optimiser steps of size `step`: gradients near 0, whose sign
        depends on rounding, become whole steps.
        """
        expected, actual = self.arrays[name], np.asarray(actual)
        assert actual.shape == expected.shape, f"{name}: {actual.shape}, expected {expected.shape}"
        limit = tolerance * np.abs(expected).max()
        if step:
            errors = np.sort(np.abs(actual - expected), axis=None)
            assert errors[-1] < max(limit, 2 * step), name
            actual = actual[np.abs(actual - expected) <= limit]
            assert len(actual) >= 0.997 * expected.size - 1, f"{name}: {expected.size - len(actual)} values differ"
            return
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit, err_msg=name)


def from_torch(array: np.ndarray) -> np.ndarray:
    """Converts a kernel from [out, in, ...] to [..., in, out], or of a transposed convolution, [in, out, ...]."""
    return array.transpose(*range(2, array.ndim), 1, 0)


def to_torch(array: np.ndarray) -> np.ndarray:
    """The inverse of `from_torch`."""
    return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


def channels_first(videos) -> np.ndarray:
    """Converts [N, T, H, W, C] to [N, C, T, H, W]."""
    return np.moveaxis(np.asarray(videos), -1, 1)
