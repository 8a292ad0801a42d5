"""Straightforward data preparation as the baseline of `benchmarks.speed.preparation`: imageio, OpenCV, h5py.

python -m benchmarks.speed.plain_preparation VIDEO_DIR FILE.h5 RESOLUTION WORKERS

Workers decode whole videos, crop and resize their frames, and send them; one process writes them as raw uint8.
"""

from __future__ import annotations

import functools
import multiprocessing
import pathlib
import sys

import cv2
import h5py
import imageio.v3 as iio
import numpy as np


def read_frames(path: str, resolution: int) -> tuple[str, np.ndarray]:
    """Returns the name of a video and its frames: centre square, uint8 [T, resolution, resolution, 3]."""
    frames = []
    for frame in iio.imiter(path, plugin="FFMPEG"):
        height, width = frame.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = frame[top : top + side, left : left + side]
        frames.append(cv2.resize(square, (resolution, resolution), interpolation=cv2.INTER_AREA))
    return pathlib.Path(path).stem, np.stack(frames)


def main(video_dir: str, output: str, resolution: str, workers: str) -> None:
    paths = sorted(str(path) for path in pathlib.Path(video_dir).rglob("*.avi"))
    with multiprocessing.Pool(int(workers), cv2.setNumThreads, (1,)) as pool, h5py.File(output, "w") as file:
        for name, frames in pool.imap(functools.partial(read_frames, resolution=int(resolution)), paths):
            file.create_dataset(name, data=frames)


if __name__ == "__main__":
    main(*sys.argv[1:])
