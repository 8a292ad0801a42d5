"""Captions: a line of text in a black strip below each video."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 10, 20  # size of the font, in pixels
LETTERS = 16  # across a video, if the font can be as large
COLOUR = (220, 220, 220)
# Letters that Unicode does not take apart. Pillow's own font has little more than ASCII.
LATIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ł": "l", "Ł": "L"}
)


def captioned(videos: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Adds a strip with a caption below each video.

    Args:
      videos: uint8 [N, T, H, W, 3].
      captions: N texts, or none, which changes nothing. A text that is too wide loses its middle. Accents are left out;
        characters without a Latin form are shown by their numbers, such as `\\u4e2d`.
    Returns:
      uint8 [N, T, H + h, W, 3].
    """
    if not captions:
        return videos
    num, frames, _, width, _ = videos.shape
    strips = np.stack([_strip(caption, width) for caption in captions])[:, np.newaxis]
    return np.concatenate([videos, np.broadcast_to(strips, (num, frames, *strips.shape[2:]))], axis=2)


def plain(text: str) -> str:
    """The text in printable ASCII."""
    return "".join(map(_latin, unicodedata.normalize("NFC", text.translate(LATIN))))


def _latin(character: str) -> str:
    parts = unicodedata.normalize("NFKD", character)
    base = "".join(part for part in parts if not unicodedata.combining(part))
    if base.isascii() and base.isprintable():
        return base
    return character.encode("unicode_escape").decode()


def _strip(text: str, width: int) -> np.ndarray:
    """uint8 [h, width, 3]."""
    font = ImageFont.load_default(min(max(width // LETTERS, SMALLEST), LARGEST))
    ascent, descent = font.getmetrics()
    image = Image.new("RGB", (width, ascent + descent))
    shown = _shortened(plain(text), width, font)
    ImageDraw.Draw(image).text((0, 0), shown, COLOUR, font)
    return np.asarray(image)


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text, without as much of its middle as is too wide."""
    for kept in range(len(text), 0, -1):
        head, tail = text[: kept // 2], text[len(text) - (kept + 1) // 2 :]
        shown = text if kept == len(text) else f"{head}…{tail}"
        if font.getlength(shown) <= width:
            return shown
    return ""
