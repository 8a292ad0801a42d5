"""Boxes and squares computed by hand, and the detector on drawn faces and on a real one."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import pytest

from data_prep import face_boxes
from data_prep.face_boxes import NO_BOX
from tests import faces
from tganv2_tf.video_io.decoding import VideoError, open_video

FACE_VIDEO = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "videos" / "carphone_pristine.mp4"
MASK_BOXES = [face_boxes.mask_box, face_boxes.official_mask_box]


def _mask(height: int = 100, width: int = 200) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def test_mask_box_is_that_of_the_largest_coloured_region() -> None:
    mask = _mask()
    mask[30:70, 20:60] = (255, 40, 255)  # one colour suffices
    mask[5:15, 150:170] = 0  # a smaller region
    mask -= np.random.default_rng(0).integers(0, 32, mask.shape, np.uint8) * (mask == 255)
    assert face_boxes.mask_box(mask) == (20, 30, 60, 70)


def test_official_box_by_hand() -> None:
    mask = _mask()
    mask[30:70, 20:60] = (200, 155, 110)  # 55 + 100 + 145 = 300 darker than white
    assert face_boxes.official_mask_box(mask) == (20, 30, 59, 69)
    # A column of 100 pixels with one such pixel has a mean of 3, with two of 6; a row of 200 needs four of them.
    mask[50, 19] = (200, 155, 110)
    assert face_boxes.official_mask_box(mask) == (20, 30, 59, 69)
    mask[51, 19] = (200, 155, 110)
    assert face_boxes.official_mask_box(mask) == (19, 30, 59, 69)
    mask[70, 20:23] = (200, 155, 110)
    assert face_boxes.official_mask_box(mask) == (19, 30, 59, 69)
    mask[70, 23] = (200, 155, 110)
    assert face_boxes.official_mask_box(mask) == (19, 30, 59, 70)


@pytest.mark.parametrize("mask_box", MASK_BOXES)
def test_white_that_is_not_quite_white(mask_box) -> None:
    mask = _mask()
    mask[:] = (251, 253, 250)  # FFmpeg's white: 4 + 2 + 5 is more than 5
    assert np.isnan(mask_box(mask)).all()
    mask[30:70, 20:60] = 100
    assert mask_box(mask)[:2] == (20, 30)


def test_specks_are_no_face() -> None:
    mask = _mask()
    mask[50, 20:30] = 0  # 10 of 20,000 pixels
    assert np.isnan(face_boxes.mask_box(mask)).all()
    mask[50:52, 20:30] = 0
    assert face_boxes.mask_box(mask) == (20, 50, 30, 52)


def _rows(*lefts: float | None) -> np.ndarray:
    """Boxes of side 10, `left` from the left and twice that from the top."""
    return np.array([NO_BOX if x is None else (x, 2 * x, x + 10, 2 * x + 10) for x in lefts])


def test_frames_without_a_box_are_filled() -> None:
    boxes = _rows(None, 4, None, None, 10, None, 14, None, None)
    np.testing.assert_allclose(face_boxes.interpolated(boxes), _rows(4, 4, 6, 8, 10, 12, 14, 14, 14))
    np.testing.assert_array_equal(face_boxes.nearest(boxes), _rows(4, 4, 4, 10, 10, 10, 14, 14, 14))
    for fill in (face_boxes.interpolated, face_boxes.nearest):
        np.testing.assert_array_equal(fill(_rows(1, 2, 3)), _rows(1, 2, 3))
        with pytest.raises(VideoError, match="no face in any"):
            fill(_rows(None, None))


def test_squares_are_about_the_centres() -> None:
    # 4 wide and 7 high: the authors' code takes 3 // 2 = 1 column on the left and 2 on the right.
    square = face_boxes.squares(np.array([(20.0, 30.0, 24.0, 37.0)]))
    np.testing.assert_array_equal(square, [(18.5, 30, 7)])
    frame = np.arange(100, dtype=np.uint8)[None, :, None].repeat(80, 0).repeat(3, 2)
    np.testing.assert_array_equal(face_boxes.crop(frame, square[0])[0, :, 0], np.arange(19, 26))
    np.testing.assert_array_equal(face_boxes.squares(np.array([(20.0, 30.0, 30.0, 36.0)])), [(20, 28, 10)])


def test_smooth_squares_hold_every_box() -> None:
    random = np.random.default_rng(0)
    for length in (1, 2, 5, 15, 200):
        centres = random.normal(0, 5, (length, 2)).cumsum(axis=0)
        halves = random.uniform(5, 40, (length, 2))
        boxes = np.hstack([centres - halves, centres + halves])
        left, top, side = face_boxes.smooth_squares(boxes).T
        assert (left <= boxes[:, 0] + 1e-9).all() and (boxes[:, 2] <= left + side + 1e-9).all()
        assert (top <= boxes[:, 1] + 1e-9).all() and (boxes[:, 3] <= top + side + 1e-9).all()


def test_smooth_squares_of_steady_motion_do_not_lag() -> None:
    boxes = np.array([(3.0 * t, 50.0, 3.0 * t + 40, 90.0) for t in range(60)])
    squares = face_boxes.smooth_squares(boxes)
    # At the ends the average lags, and the square is larger within the reach of three windows of 7.
    expected = np.stack([[3 * t, 50, 40] for t in range(21, 39)])
    np.testing.assert_allclose(squares[21:39], expected, atol=1e-9)


def test_smoothing_takes_jitter_away() -> None:
    random = np.random.default_rng(0)
    centres = np.array([80.0, 60.0]) + random.normal(0, 2, (300, 2))
    boxes = np.hstack([centres - 20, centres + 20])
    rough, smooth = face_boxes.squares(boxes), face_boxes.smooth_squares(boxes)

    def jitter(squares: np.ndarray) -> float:
        return float(np.abs(np.diff(squares[:, :2] + squares[:, 2:] / 2, axis=0)).mean())

    # Independent noise of deviation 2 changes by 2 * 2 / sqrt(pi) = 2.26 on average between frames. The mean of 15
    # values replaces one of them per frame: a 15th of that.
    assert jitter(rough) == pytest.approx(2.26, rel=0.1)
    assert jitter(smooth) == pytest.approx(2.26 / 15, rel=0.1)
    assert np.abs(np.diff(smooth[:, 2])).max() < 1


FRAME = np.arange(80 * 100, dtype=np.int64).reshape(80, 100, 1).repeat(3, 2) % 251


@pytest.mark.parametrize(
    ("square", "rows", "columns"),
    [
        ((10, 20, 30), (20, 50), (10, 40)),
        ((10.4, 19.5, 29.2), (20, 50), (10, 40)),  # the side is rounded up, the corner to the nearest pixel
        ((-7, 20, 30), (20, 50), (0, 30)),
        ((90, 70, 30), (50, 80), (70, 100)),
        ((90, -5, 80), (0, 80), (20, 100)),
    ],
)
def test_crop_moves_into_the_frame(square: tuple[float, ...], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    frame = FRAME.astype(np.uint8)
    np.testing.assert_array_equal(face_boxes.crop(frame, np.array(square)), frame[slice(*rows), slice(*columns)])


def test_crop_of_a_face_larger_than_the_frame_repeats_the_edge() -> None:
    frame = FRAME.astype(np.uint8)
    crop = face_boxes.crop(frame, np.array((5.0, -3.0, 90.0)))  # 10 more rows than available
    assert crop.shape == (90, 90, 3)
    np.testing.assert_array_equal(crop[5:85], frame[:, 5:95])
    for row in (0, 4):
        np.testing.assert_array_equal(crop[row], frame[0, 5:95])
    for row in (85, 89):
        np.testing.assert_array_equal(crop[row], frame[79, 5:95])


def test_margin_widens_but_not_beyond_the_frame() -> None:
    frame = FRAME.astype(np.uint8)
    square = np.array((40.0, 30.0, 20.0))
    np.testing.assert_array_equal(face_boxes.crop(frame, square, 0.25), frame[25:55, 35:65])
    np.testing.assert_array_equal(face_boxes.crop(frame, square, 5.0), frame[:, 10:90])


def _fake_detections(monkeypatch: pytest.MonkeyPatch, found: list[list[tuple[float, ...]]]) -> np.ndarray:
    """Returns the result of `detect_boxes` for given detections in every fifth frame."""
    answers = iter(found)
    monkeypatch.setattr(face_boxes, "find_faces", lambda frame: np.array(next(answers)).reshape(-1, 4))
    return face_boxes.detect_boxes(np.zeros((5 * len(found) - 3, 8, 8, 3), np.uint8))


def test_the_main_face_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def box(x: float, side: float) -> tuple[float, ...]:
        return x, 10.0, x + side, 10.0 + side

    found = [
        [box(200, 30), box(100, 40)],
        [box(108, 40), box(201, 30)],
        [box(400, 90), box(202, 30)],  # a false positive; the main face is turned away
        [box(203, 30)],
        [box(130, 41), box(203, 30)],
        [box(204, 30)],
    ]
    boxes = _fake_detections(monkeypatch, found)
    # 40^2 + 40^2 + 41^2 = 4881, less than 6 * 30^2 = 5400.
    seen = {5 * look: box(x, 30) for look, x in enumerate((200, 201, 202, 203, 203, 204))}
    assert len(boxes) == 27 and np.flatnonzero(~np.isnan(boxes[:, 0])).tolist() == list(seen)
    np.testing.assert_array_equal(boxes[list(seen)], list(seen.values()))
    found[0][1] = box(99, 47)  # 47^2 + 40^2 + 41^2 = 5490, more
    boxes = _fake_detections(monkeypatch, found)
    assert np.flatnonzero(~np.isnan(boxes[:, 0])).tolist() == [0, 5, 20]


@pytest.mark.parametrize(("seen", "enough"), [(0, False), (1, False), (2, True)])
def test_a_face_must_be_seen_often(monkeypatch: pytest.MonkeyPatch, seen: int, enough: bool) -> None:
    face: list[tuple[float, ...]] = [(10, 10, 50, 50)]
    found = [face] * seen + [[]] * (8 - seen)
    if enough:
        assert np.isnan(_fake_detections(monkeypatch, found)[:, 0]).sum() == 37 - seen
        return
    with pytest.raises(VideoError, match=f"in only {seen} of the 8 inspected frames"):
        _fake_detections(monkeypatch, found)


@pytest.mark.parametrize("tilt", [0, 30, -30])
@pytest.mark.parametrize(("x", "y", "radius"), [(80, 60, 40), (50, 70, 25)])
def test_drawn_faces_are_found(tilt: float, x: float, y: float, radius: float) -> None:
    (box,) = face_boxes.find_faces(faces.draw_face(x, y, radius, tilt=tilt, nose=False))
    left, top, right, bottom = box
    assert math.hypot((left + right) / 2 - x, (top + bottom) / 2 - y) < 0.25 * radius
    assert 1.5 * radius < right - left < 2.6 * radius and right - left == pytest.approx(bottom - top)


def test_no_face_in_an_empty_room() -> None:
    assert face_boxes.find_faces(faces.BACKGROUND).shape == (0, 4)


@pytest.mark.skipif(not FACE_VIDEO.is_file(), reason="needs the video of a face in ../shared/data/videos")
def test_a_real_face_is_found_all_the_time() -> None:
    boxes = face_boxes.detect_boxes(open_video(FACE_VIDEO).frames)
    assert len(boxes) == 120
    there = boxes[::5]
    assert np.isnan(there[:, 0]).sum() <= 2
    # By eye: the nose moves between x = 65 and 100, y = 55 and 75; the face is about 60 pixels wide.
    centres, sides = (there[:, :2] + there[:, 2:]) / 2, there[:, 2] - there[:, 0]
    assert (np.nanmin(centres, axis=0) > (55, 50)).all() and (np.nanmax(centres, axis=0) < (105, 80)).all()
    assert np.nanmin(sides) > 45 and np.nanmax(sides) < 75
