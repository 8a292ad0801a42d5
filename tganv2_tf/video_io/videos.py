"""Conversion and layout of videos (bytes, grids, strips), and streaming writers for GIF, MP4, PNG and NPZ."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable

import imageio.v3 as iio
import numpy as np

from tganv2_tf.errors import UserError
from tganv2_tf.storage.files import Path, atomic_file, atomic_folder
from tganv2_tf.video_io.captions import captioned
from tganv2_tf.video_io.encoding import encoder

SUFFIXES = (".gif", ".mp4", ".png", ".npz")
RESAMPLE = ("nearest", "bicubic", "lanczos")
CV2_NAMES = {"bicubic": "CUBIC", "lanczos": "LANCZOS4"}
STRIP_FRAMES = 8  # per video, in an image
MAX_GIF_FPS = 50.0  # players slow down faster files

Write = Callable[[np.ndarray], None]


def to_uint8(videos: np.ndarray) -> np.ndarray:
    """Converts floats in [-1, 1] to uint8: round((x + 1) * 127.5)."""
    return np.rint((np.clip(videos, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def grid(videos: np.ndarray, columns: int | None = None, border: int = 2) -> np.ndarray:
    """Arranges videos in a grid, row by row.

    Args:
      videos: uint8 [N, T, H, W, 3].
      columns: videos per row; None = about as many as rows.
      border: width in pixels of the black border between videos.
    Returns:
      uint8 [T, H', W', 3].
    """
    num, frames, height, width, channels = videos.shape
    columns = min(num, columns or math.ceil(math.sqrt(num)))
    rows = math.ceil(num / columns)
    shape = (frames, rows * (height + border) - border, columns * (width + border) - border, channels)
    canvas = np.zeros(shape, np.uint8)
    for i, video in enumerate(videos):
        top, left = (i // columns) * (height + border), (i % columns) * (width + border)
        canvas[:, top : top + height, left : left + width] = video
    return canvas


def shown_frames(num_frames: int, count: int) -> np.ndarray:
    """Returns the indices of evenly spaced frames that represent a video in an image; the middle one if `count` is 1.

    Args:
      num_frames: frames of the video.
      count: number of frames to select; all if there are fewer.
    """
    if count == 1:
        return np.array([(num_frames - 1) // 2])
    return np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int)


def strip(
    videos: np.ndarray, num_frames: int = STRIP_FRAMES, border: int = 2, captions: Sequence[str] = ()
) -> np.ndarray:
    """Arranges frames from left to right, one video per row: uint8 [N, T, H, W, 3] -> uint8 [H', W', 3].

    Args:
      videos: uint8 [N, T, H, W, 3].
      num_frames: number of evenly spaced frames to show.
      border: width in pixels of the black border between frames.
      captions: N captions of the rows; empty = none.
    """
    frames = videos[:, shown_frames(videos.shape[1], num_frames)]
    rows = np.stack([grid(row[:, np.newaxis], len(row), border) for row in frames])
    return grid(captioned(rows, captions), 1, border)[0]


def enlarge(video: np.ndarray, factor: int, resample: str = "nearest") -> np.ndarray:
    """Enlarges frames: uint8 [..., H, W, 3] -> [..., factor * H, factor * W, 3].

    Args:
      video: any number of frames.
      factor: at least 1.
      resample: nearest repeats pixels; bicubic and lanczos are smooth.
    """
    if factor == 1:
        return video
    if resample == "nearest":
        return video.repeat(factor, axis=-3).repeat(factor, axis=-2)
    import cv2  # here: it needs system libraries that the rest of this module does not

    *axes, height, width, _ = video.shape
    size, how = (factor * width, factor * height), getattr(cv2, f"INTER_{CV2_NAMES[resample]}")
    frames = [cv2.resize(frame, size, interpolation=how) for frame in video.reshape(-1, height, width, 3)]
    return np.stack(frames).reshape(*axes, factor * height, factor * width, 3)


def gif_bytes(video: np.ndarray, fps: float) -> bytes:
    """Encodes uint8 [T, H, W, 3] as an endless animated GIF."""
    buffer = io.BytesIO()
    # GIF durations are in 1/100 s; a duration of 0 would leave the speed to the viewer.
    iio.imwrite(buffer, video, extension=".gif", plugin="pillow", duration=max(20, round(1000 / fps)), loop=0)
    return buffer.getvalue()


def is_folder(path: Path) -> bool:
    """Returns whether a path names a folder of frames, i.e. ends with a slash."""
    return str(path).endswith(("/", os.sep))


def check_suffix(path: Path) -> str:
    """Returns the file's suffix; empty for a folder of frames.

    Raises:
      UserError: the suffix is not supported.
    """
    if is_folder(path):
        return ""
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{path}: cannot write {suffix or 'a file without a suffix'}; valid: {', '.join(SUFFIXES)}, "
            "or a folder of frames, whose name ends with /"
        )
    return suffix


@contextlib.contextmanager
def open_writer(
    path: Path,
    num_frames: int,
    fps: float,
    columns: int = 0,
    shown: int = STRIP_FRAMES,
    arrays: Mapping[str, np.ndarray] | None = None,
    captions: Sequence[str] = (),
) -> Iterator[Write]:
    """Yields a function that writes the next frames of all videos, uint8 [N, t, H, W, 3].

    The file is written atomically, and memory use does not grow with the number of frames. Formats:

    - .gif, .mp4 (H.264): a grid of the videos;
    - .png: some frames of each video from left to right, one video per row;
    - .npz: `videos`, uint8 [N, T, H, W, 3], and `arrays`;
    - a folder, NAME/: the frames of the grid, as frame-00000.png and so on.

    Args:
      path: the file, or the folder, which must not exist.
      num_frames: T, the total number of frames.
      fps: frames per second.
      columns: videos per row of the grid (also of a .png of videos with one frame); 0 = about as many as rows.
      shown: frames of each video in a .png.
      arrays: additional arrays for an .npz.
      captions: N captions below the videos, or none; not in an .npz.
    Raises:
      UserError: the suffix is not supported, the folder exists, or frames cannot be encoded.
      OSError: writing failed, e.g. the disk is full.
    """
    suffix = check_suffix(path)
    if suffix == ".npz":
        with _npz(path, num_frames, arrays or {}) as write:
            yield write
        return
    if suffix == ".png":
        with _picture(path, num_frames, shown, columns, captions) as write:
            yield write
        return
    with encoder(path, fps) if suffix else _frames(path) as write_grid:
        yield lambda videos: write_grid(grid(captioned(videos, captions), columns or None))


def write_video(path: Path, video: np.ndarray, fps: float) -> None:
    """Writes one video, uint8 [T, H, W, 3], like `open_writer`; a .png is a strip of frames."""
    with open_writer(path, len(video), fps) as write:
        write(video[np.newaxis])


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image, uint8 [H, W, 3], atomically."""
    with atomic_file(path) as temporary:
        iio.imwrite(temporary, image)


@contextlib.contextmanager
def _picture(path: Path, num_frames: int, shown: int, columns: int, captions: Sequence[str]) -> Iterator[Write]:
    chosen, parts, seen = shown_frames(num_frames, shown), [], 0

    def write(videos: np.ndarray) -> None:
        nonlocal seen
        here = chosen[(chosen >= seen) & (chosen < seen + videos.shape[1])] - seen
        parts.append(videos[:, here])
        seen += videos.shape[1]

    yield write
    videos = np.concatenate(parts, axis=1)
    if videos.shape[1] == 1:
        write_image(path, grid(captioned(videos, captions), columns or None)[0])
    else:
        write_image(path, strip(videos, shown, captions=captions))


@contextlib.contextmanager
def _frames(folder: Path) -> Iterator[Write]:
    seen = 0
    with atomic_folder(folder) as temporary:

        def write(frames: np.ndarray) -> None:
            nonlocal seen
            for frame in frames:
                iio.imwrite(temporary / f"frame-{seen:05}.png", frame)
                seen += 1

        yield write


@contextlib.contextmanager
def _npz(path: Path, num_frames: int, arrays: Mapping[str, np.ndarray]) -> Iterator[Write]:
    """Collects the videos in a temporary file, because an archive stores all frames of a video together."""
    with atomic_file(path) as temporary, tempfile.TemporaryFile(dir=temporary.parent) as gathered:
        start = seen = 0

        def write(videos: np.ndarray) -> None:
            nonlocal start, seen
            num, frames, *shape = videos.shape
            if not seen:
                header = {"descr": "|u1", "fortran_order": False, "shape": (num, num_frames, *shape)}
                np.lib.format.write_array_header_1_0(gathered, header)
                start = gathered.tell()
            for number, video in enumerate(videos):
                gathered.seek(start + (number * num_frames + seen) * math.prod(shape))
                gathered.write(video.tobytes())
            seen += frames

        yield write
        gathered.seek(0)
        with zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("videos.npy", "w", force_zip64=True) as member:
                shutil.copyfileobj(gathered, member)
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
