"""Captions: a line of text on a black strip below each video."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 10, 20  # size of the font, in pixels
LETTERS = 16  # approximate letters per video width, within these font sizes
COLOUR = (220, 220, 220)
# Letters without a Unicode decomposition. Pillow's default font covers little more than ASCII.
LATIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ł": "l", "Ł": "L"}
)


def captioned(videos: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Adds a strip with a caption below each video.

    Args:
      videos: uint8 [N, T, H, W, 3].
      captions: N texts; if empty, the videos are returned unchanged. The middle of a text that is too wide is cut out.
        Accents are removed; characters without a Latin form are shown as escapes, such as `\\u4e2d`.
    Returns:
      uint8 [N, T, H + h, W, 3].
    """
    if not captions:
        return videos
    num, frames, _, width, _ = videos.shape
    strips = np.stack([_strip(caption, width) for caption in captions])[:, np.newaxis]
    return np.concatenate([videos, np.broadcast_to(strips, (num, frames, *strips.shape[2:]))], axis=2)


def plain(text: str) -> str:
    """Converts a text to printable ASCII."""
    return "".join(map(_latin, unicodedata.normalize("NFC", text.translate(LATIN))))


def _latin(character: str) -> str:
    parts = unicodedata.normalize("NFKD", character)
    base = "".join(part for part in parts if not unicodedata.combining(part))
    if base.isascii() and base.isprintable():
        return base
    return character.encode("unicode_escape").decode()


def _strip(text: str, width: int) -> np.ndarray:
    """Draws a caption strip, uint8 [h, width, 3]."""
    font = ImageFont.load_default(min(max(width // LETTERS, SMALLEST), LARGEST))
    ascent, descent = font.getmetrics()
    image = Image.new("RGB", (width, ascent + descent))
    shown = _shortened(plain(text), width, font)
    ImageDraw.Draw(image).text((0, 0), shown, COLOUR, font)
    return np.asarray(image)


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cuts the middle out of a text until it fits the width."""
    for kept in range(len(text), 0, -1):
        head, tail = text[: kept // 2], text[len(text) - (kept + 1) // 2 :]
        shown = text if kept == len(text) else f"{head}…{tail}"
        if font.getlength(shown) <= width:
            return shown
    return ""
