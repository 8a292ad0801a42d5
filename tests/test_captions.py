"""Captions below videos: they fit, they are ASCII, and no pixel of a video changes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from tganv2_tf.video_io import captions
from tganv2_tf.video_io.captions import captioned, plain

VIDEOS = np.random.default_rng(0).integers(0, 256, (3, 2, 20, 48, 3), np.uint8)
STRIP = sum(ImageFont.load_default(captions.SMALLEST).getmetrics())  # rows of the smallest font


def test_a_strip_below_each_video_is_all_that_is_added():
    made = captioned(VIDEOS, ["seed3", "seed4", ""])
    assert made.dtype == np.uint8 and made.shape == (3, 2, 20 + STRIP, 48, 3)
    np.testing.assert_array_equal(made[:, :, :20], VIDEOS)
    strips = made[:, :, 20:]
    np.testing.assert_array_equal(strips[:, 0], strips[:, 1], "of all frames")
    assert not strips[2].any()
    assert strips[0].max() > 150 and (strips[0] != strips[1]).any()
    assert captioned(VIDEOS, []) is VIDEOS


@pytest.mark.parametrize("width", [4, 10, 16, 32, 64, 200, 1000])
def test_long_names_lose_their_middle(width):
    font = ImageFont.load_default(captions.SMALLEST)
    name = "a/folder/of/some/kind/v_Archery_g01_c01"
    shown = captions._shortened(name, width, font)
    assert font.getlength(shown) <= width
    if shown != name:
        head, _, tail = shown.rpartition("…")
        assert name.startswith(head) and name.endswith(tail) and len(tail) - len(head) in (0, 1)
        more = f"{name[: len(head) + 1]}…{name[-len(tail) - 1 :]}"
        assert font.getlength(more) > width, "as much of it as there is room for"
    assert (shown == name) == (font.getlength(name) <= width) and captioned(VIDEOS, [name] * 3).shape[3] == 48


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("seed3-Biking", "seed3-Biking"),
        ("Café/Straße", "Cafe/Strasse"),
        ("Cafe\u0301", "Cafe"),  # decomposed, as on macOS
        ("Łódź", "Lodz"),
        ("中文-1", r"\u4e2d\u6587-1"),
        ("がa", r"\u304ca"),
        ("two\nlines", r"two\nlines"),
        ("\U0001f600", r"\U0001f600"),
    ],
)
def test_names_in_other_letters_can_be_told_apart(text, shown):
    assert plain(text) == shown


def test_the_font_grows_with_the_video():
    heights = [captioned(np.zeros((1, 1, 1, width, 3), np.uint8), ["x"]).shape[2] for width in (16, 160, 240, 320, 999)]
    assert heights[0] == heights[1] < heights[2] < heights[3] == heights[4]
