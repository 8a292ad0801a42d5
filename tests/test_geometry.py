"""Frames cropped and resized to the size of a data set, compared with values derived by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tganv2_tf.video_io.geometry import centre_square, fit, frame_size, resize_square


def test_paper_geometry_by_hand() -> None:
    # Six columns of 0, 10, ..., 50: the centre square has columns 10 to 40, and averages of two of them are 15 and 35.
    frame = np.broadcast_to(10 * np.arange(6, dtype=np.uint8)[None, :, None], (4, 6, 3))
    expected = np.broadcast_to(np.array([15, 35])[None, :, None], (2, 2, 3))
    np.testing.assert_array_equal(fit(frame, "paper", 2), expected)


def _exact_means(line: np.ndarray, parts: int) -> np.ndarray:
    """Averages [pixels] integers over [parts] equal lengths, times the number of pixels, in Python's exact integers."""
    fine = [int(value) for value in line for _ in range(parts)]
    return np.array([sum(fine[part * len(line) : (part + 1) * len(line)]) for part in range(parts)])


@pytest.mark.parametrize(("side", "resolution"), [(5, 4), (30, 24), (15, 8), (48, 9), (12, 5), (16, 15)])
def test_squares_shrink_to_means_over_areas(side: int, resolution: int) -> None:
    square = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    square[: side // 2, : side // 2] = 255  # the largest sums
    sums = np.apply_along_axis(_exact_means, 0, square.astype(int), resolution)
    sums = np.apply_along_axis(_exact_means, 1, sums, resolution)
    shrunk = resize_square(square, resolution)
    assert shrunk.shape == (resolution, resolution, 3) and shrunk.dtype == np.uint8
    assert np.abs(shrunk - sums / side**2).max() <= 0.5 + 1e-5
    # A slice of a frame is not contiguous in memory.
    frame = np.zeros((side, side + 3, 3), np.uint8)
    frame[:, 2:-1] = square
    np.testing.assert_array_equal(resize_square(frame[:, 2:-1], resolution), shrunk)


@pytest.mark.parametrize(
    ("side", "resolution", "differing"),
    [(240, 192, 0), (240, 128, 0), (256, 192, 0), (480, 192, 0), (240, 100, 2e-3), (241, 192, 0), (240, 80, 0)],
)
def test_squares_shrink_as_with_opencv(side: int, resolution: int, differing: float) -> None:
    # If a mean is halfway between two levels, OpenCV's rounding errors decide.
    square = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    reference = cv2.resize(square, (resolution, resolution), interpolation=cv2.INTER_AREA)
    difference = np.abs(resize_square(square, resolution).astype(int) - reference)
    assert difference.max() <= (differing > 0) and (difference > 0).mean() <= differing


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((240, 320), (0, 240), (40, 280)),
        ((320, 240), (40, 280), (0, 240)),
        ((5, 8), (0, 5), (1, 6)),
        ((7, 7), (0, 7), (0, 7)),
    ],
)
def test_centre_square(shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    frame = np.arange(shape[0] * shape[1]).reshape(*shape, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(centre_square(frame), frame[slice(*rows), slice(*columns)])


def test_official_geometry_keeps_the_whole_frame() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    np.testing.assert_array_equal(fit(frame, "official", 240), frame)  # 240 x 320 is 4:3 already
    halves = np.zeros((240, 400, 3), np.uint8)
    halves[:, 200:] = 200
    squeezed = fit(halves, "official", 192)
    assert squeezed.shape == (192, 256, 3)
    assert (squeezed[:, :125] == 0).all() and (squeezed[:, 131:] == 200).all()


@pytest.mark.parametrize(
    ("geometry", "resolution", "size"),
    [("paper", 192, (192, 192)), ("official", 192, (192, 256)), ("official", 64, (64, 85))],
)
@pytest.mark.parametrize("source", [(240, 320), (33, 47), (500, 301)])
def test_frame_size_is_that_of_the_frames(
    geometry: str, resolution: int, size: tuple[int, int], source: tuple[int, int]
) -> None:
    assert frame_size(geometry, resolution) == size
    assert fit(np.zeros((*source, 3), np.uint8), geometry, resolution).shape == (*size, 3)
