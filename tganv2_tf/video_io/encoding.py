"""Encodes GIF and MP4 files with ffmpeg, frame by frame.

The ffmpeg program comes with imageio-ffmpeg. imageio's own writer is not used, because it ignores ffmpeg's exit status
and so does not notice a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO, Callable

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from tganv2_tf.errors import UserError
from tganv2_tf.storage.files import Path, atomic_file


@contextlib.contextmanager
def encoder(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that writes the next frames, uint8 [t, H, W, 3]. The file is written atomically.

    Args:
      path: .gif or .mp4 (H.264; odd sizes are padded with a black row or column, which players require).
      fps: frames per second.
    Raises:
      OSError: the disk is full.
      UserError: ffmpeg failed for another reason.
    """
    with atomic_file(path) as temporary, tempfile.TemporaryFile() as log:
        process = _Encoder(path, temporary, fps, log)
        try:
            yield process.write
            process.finish()
        finally:
            process.stop()


class _Encoder:
    """An ffmpeg process."""

    def __init__(self, path: Path, target: pathlib.Path, fps: float, log: IO[bytes]) -> None:
        """Args are the name for messages, the file to write, the frames per second, and a file for ffmpeg's log."""
        self._path, self._target, self._fps, self._log = path, target, fps, log
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        if self._target.suffix.lower() == ".gif":
            # One palette per frame, so that no later frames are needed. No transparency: some readers return RGBA then.
            palette = "palettegen=stats_mode=single:reserve_transparent=0"
            options = ["-filter_complex", f"split[a][b];[a]{palette}[p];[b][p]paletteuse=new=1", "-loop", "0"]
        else:
            even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # required by yuv420p, which all players support
            # Tagged as BT.709: players guess the matrix of untagged files from the frame size.
            bt709 = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p"
            tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
            options = ["-vf", f"{even},{bt709}", "-c:v", "libx264", "-crf", "10", *tags, "-movflags", "+faststart"]
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self._fps), "-i", "-"]
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *options, str(self._target.absolute())]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log)

    def write(self, frames: np.ndarray) -> None:
        """Writes the next frames, uint8 [t, H, W, 3]."""
        if self._process is None:
            self._process = self._start(*frames.shape[1:3])
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frames.tobytes())
        except BrokenPipeError:
            self.finish()

    def finish(self) -> None:
        """Waits for ffmpeg to end.

        Raises:
          OSError: the disk is full.
          UserError: ffmpeg failed for another reason, or no frame was written.
        """
        if self._process is None:
            raise UserError(f"{self._path}: there are no frames to write")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        status = self._process.wait()
        if not status:
            return
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()
        if os.strerror(errno.ENOSPC) in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        raise UserError(f"{self._path}: ffmpeg ended with status {status}: {text.rpartition(chr(10))[2]}")

    def stop(self) -> None:
        """Kills ffmpeg if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
