"""Thin glyphs: each looks like its class, moves, bounces, and never leaves the centre square."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data_prep import glyphs
from data_prep.glyphs import CLASSES, DIGITS

SIZES = {"num_frames": 32, "height": 72, "width": 96}


def _picture(class_name: str) -> np.ndarray:
    """Draws the upright glyph, centred in 96x96 pixels: float in [0, 1]."""
    lines = [stroke + 24 for stroke in glyphs.strokes(class_name, 32, 48, 0.0)]
    return glyphs.coverage(lines, 3.0, 96, 96)


def _ink(frames: np.ndarray) -> np.ndarray:
    """Returns the fraction of the stroke's colour by saturation: float [T, H, W] from 0 to about 1."""
    saturation = frames.max(-1).astype(float) - frames.min(-1)
    return np.clip(saturation - 60, 0, None) / 180


def test_strokes_fill_their_grid_and_slant_to_the_right() -> None:
    (seven,) = glyphs.strokes("Digit7", 8.0, 12.0, 0.0)  # 0,0 to 4,0 to 1,6 on a grid of 4 by 6 steps
    np.testing.assert_allclose(seven, [[0, 0], [8, 0], [2, 12]])
    (slanted,) = glyphs.strokes("Digit7", 8.0, 12.0, 0.25)
    np.testing.assert_allclose(slanted, [[3, 0], [11, 0], [2, 12]])
    assert len(glyphs.strokes("LetterX", 1, 1, 0)) == 2
    assert len(CLASSES) == 34 and len({name.lower() for name in CLASSES}) == 34
    for name in CLASSES:
        points = np.concatenate(glyphs.strokes(name, 4, 6, 0))
        assert points[:, 1].min() == 0 and points[:, 1].max() == 6, name
        assert points[:, 0].min() >= 0 and points[:, 0].max() <= 4, name


@pytest.mark.parametrize(
    ("names", "holes"),
    [
        ("Digit1 Digit2 Digit3 Digit5 Digit7 LetterC LetterE LetterL LetterS LetterW LetterX LetterZ", 0),
        ("Digit0 Digit4 Digit6 Digit9 LetterA LetterD LetterP LetterR", 1),
        ("Digit8 LetterB", 2),
    ],
)
def test_glyphs_have_the_holes_that_they_are_known_for(names: str, holes: int) -> None:
    for name in names.split():
        paper = (_picture(name) < 0.5).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(paper, connectivity=4)
        around, *inside = sorted(stats[1:, cv2.CC_STAT_AREA], reverse=True)
        assert around > 96 * 96 / 2 and sum(area > 10 for area in inside) == holes, name


def test_no_two_classes_look_alike() -> None:
    pictures = {name: _picture(name) for name in CLASSES}
    for a in CLASSES:
        for b in CLASSES:
            common = np.minimum(pictures[a], pictures[b]).sum() / np.maximum(pictures[a], pictures[b]).sum()
            assert a == b or common < 0.88, f"{a} {b}"  # a Q is a 0 except for its tail


def test_strokes_are_as_thick_as_asked_and_finer_than_a_pixel() -> None:
    line = np.array([[5.0, 10.0], [15.0, 10.0]])
    for thickness in (1.0, 2.0, 3.0):
        across = glyphs.coverage([line], thickness, 20, 20)[:, 10]
        assert across.sum() == pytest.approx(thickness + 0.42, abs=0.05)  # the smooth edge extends outwards
    centres = []
    for y in (0.0, 0.1, 0.2, 0.3):
        across = glyphs.coverage([line + [0, y]], 2.0, 20, 20)[:, 10]
        centres.append((across * (np.arange(20) + 0.5)).sum() / across.sum())
    np.testing.assert_allclose(np.array(centres) - 10, [0.0, 0.1, 0.2, 0.3], atol=0.1)


def test_bouncing_by_hand() -> None:
    room = np.array([10.0, 4.0])
    for position, expected in (([3, 1], [3, 1]), ([12, 5], [8, 3]), ([-2, -1], [2, 1]), ([25, 9], [5, 1])):
        np.testing.assert_allclose(glyphs.bounce(np.array(position, float), room), expected)


@pytest.mark.parametrize("name", [*(f"Digit{name}" for name in DIGITS), "LetterW", "LetterQ"])
def test_glyphs_move_and_bounce_and_are_always_whole(name: str) -> None:
    turned = 0
    for group, clip in ((1, 1), (2, 3), (5, 4)):
        ink = _ink(glyphs.render(name, group, clip, **SIZES, seed=0))
        assert ink[:, :, :11].max() == 0 and ink[:, :, 85:].max() == 0, "outside of the centre square"
        amount = ink.sum((1, 2))
        # Nothing is clipped at a side; sampling and thresholding change the sum slightly.
        assert amount.min() > 0.85 * amount.max(), (group, clip)
        x, y = (ink * np.arange(96)).sum((1, 2)) / amount, (ink * np.arange(72)[:, None]).sum((1, 2)) / amount
        steps = np.stack([np.diff(x), np.diff(y)], axis=1)
        speeds = np.hypot(*steps.T)
        low, high = (72 * speed for speed in glyphs.SPEED)
        assert speeds.max() < high + 0.8 and low - 0.2 < np.median(speeds) < high + 0.2
        clear = np.abs(np.median(np.abs(steps), axis=0)) > 0.3  # an axis with visible motion
        turned += int((np.sign(steps[0]) != np.sign(steps[-1]))[clear].sum())
    assert turned, "three videos, and none of them bounces"


def test_what_varies_within_a_class_and_what_a_group_shares() -> None:
    def middle(group: int, clip: int, seed: int = 0) -> tuple[np.ndarray, float, int]:
        frame = glyphs.render("Digit0", group, clip, **SIZES, seed=seed)[0]
        ink = _ink(frame[None])[0]
        rows = np.flatnonzero(ink.max(1) > 0.3)
        columns = np.arange(96)
        upper, lower = ink[rows[: len(rows) // 2]].sum(0), ink[rows[len(rows) // 2 :]].sum(0)
        slant = (upper * columns).sum() / upper.sum() - (lower * columns).sum() / lower.sum()
        return frame[ink > 0.5].mean(0), slant / len(rows), len(rows)

    colours, slants, heights = zip(*(middle(group, clip) for group in range(1, 7) for clip in (1, 2)))
    assert len(set(heights)) > 3
    within = np.abs(np.diff(np.reshape(slants, (6, 2)), axis=1)).max()
    assert within < 0.06 and np.ptp(slants) > 0.12, "a group has its slant"
    hues = np.reshape(colours, (6, 2, 3)) / np.max(colours, axis=-1).reshape(6, 2, 1)
    assert np.abs(hues[:, 0] - hues[:, 1]).max() < 0.35, "a group has its colour"
    assert all(np.abs(hues[i, 0] - hues[j, 0]).max() > 0.4 for i in range(6) for j in range(i))


def test_the_same_seed_gives_the_same_pixels() -> None:
    first = glyphs.render("Digit5", 2, 1, **SIZES, seed=1)
    assert first.shape == (32, 72, 96, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, glyphs.render("Digit5", 2, 1, **SIZES, seed=1))
    for group, clip, seed in ((2, 1, 2), (2, 2, 1), (3, 1, 1)):
        assert (first != glyphs.render("Digit5", group, clip, **SIZES, seed=seed)).any()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 31)])
def test_small_and_upright_frames(height: int, width: int) -> None:
    for name in CLASSES:
        frames = glyphs.render(name, 1, 1, num_frames=3, height=height, width=width, seed=0)
        assert frames.shape == (3, height, width, 3) and frames.max() > 100  # no background is as bright
