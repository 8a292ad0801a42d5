"""Converts decoded frames to RGB as players show them: interlacing, colours, pixel shape, orientation, and timing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import av.filter
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from tganv2_tf.errors import VideoError

UNSPECIFIED, FULL = 2, 2  # values of AVColorSpace and AVColorRange
BT601, BT709 = 5, 1
# From the numbers of ITU-T H.273, as in AVColorSpace, to those of swscale.
MATRICES = {0: BT601, 1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: 9}
HD_HEIGHT, HD_WIDTH = 720, 1280
MAX_PIXEL_RATIO = 16  # maximum ratio of a pixel's sides
MAX_GAP = 10  # seconds between frames; longer gaps are time stamp errors
HDR = {16: "PQ", 18: "HLG"}  # by the numbers of ITU-T H.273
TO_SDR = (
    "ffmpeg -i IN.mp4 -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p -crf 15 OUT.mp4"
)


class Display:
    """Converts the frames of a stream for display."""

    def __init__(self, stream: av.VideoStream) -> None:
        """Raises VideoError if the stream is HDR or declares an impossible pixel shape."""
        context = stream.codec_context
        curve = HDR.get(context.color_trc)
        if curve:
            raise VideoError(f"it is HDR ({curve}); convert it first: {TO_SDR}")
        self._matrix, self._range = context.colorspace, context.color_range
        self._pixel = Fraction(stream.sample_aspect_ratio or 1)
        if not 1 / MAX_PIXEL_RATIO <= self._pixel <= MAX_PIXEL_RATIO:
            raise VideoError(f"its header declares pixels {self._pixel} times as wide as high; correct it")
        self._square, self._reformatter = self._pixel == 1, VideoReformatter()

    def shown(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns a frame as contiguous RGB, uint8 [height, width, 3]."""
        image = self._rgb(frame)
        if not self._square:
            height, width = image.shape[:2]
            if self._pixel > 1:
                width = max(1, round(width * self._pixel))
            else:
                height = max(1, round(height / self._pixel))
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        return oriented(image, frame)

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        colours = {} if frame.format.is_rgb or frame.format.has_palette else self._colours(frame)
        converted = self._reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, **colours)
        if converted is frame:  # its memory belongs to the decoder
            return frame.to_ndarray()
        (plane,) = converted.planes
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)

    def _colours(self, frame: av.VideoFrame) -> dict[str, int]:
        """Returns a frame's colour matrix and range as arguments for PyAV."""
        matrix = frame.colorspace
        if matrix == UNSPECIFIED:
            matrix = self._matrix
        if matrix == UNSPECIFIED:
            matrix = BT709 if frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH else BT601
        if matrix not in MATRICES:
            raise VideoError(f"its colour matrix (number {matrix} of ITU-T H.273) is not supported")
        source = MATRICES[matrix]
        return {
            "src_colorspace": source,
            # Not used for RGB, but PyAV sets the source coefficients only if this one differs.
            "dst_colorspace": BT709 if source != BT709 else BT601,
            "src_color_range": frame.color_range or self._range,
            "dst_color_range": FULL,
        }


def oriented(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Rotates and mirrors an image [H, W, 3] to the nearest of eight orientations of the frame's display matrix."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    # The fixed-point matrix [a b u; c d v; x y w] maps points to x' = a x + c y, y' = b x + d y.
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(int)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        left, up = a < 0, d < 0
    else:
        image, left, up = image.transpose(1, 0, 2), c < 0, b < 0
    return np.ascontiguousarray(image[:: -1 if up else 1, :: -1 if left else 1])


class _Deinterlacer:
    """FFmpeg's bwdif filter: one output per input frame; frames not flagged as interlaced are unchanged."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._kind = _kind(frame)
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        filters = [source, self._graph.add("bwdif", "mode=send_frame:deint=interlaced"), self._graph.add("buffersink")]
        self._graph.link_nodes(*filters).configure()

    def accepts(self, frame: av.VideoFrame) -> bool:
        """Returns whether a frame has the size and format of the previous ones."""
        return _kind(frame) == self._kind

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Adds the next frame (None after the last one) and yields the frames that are ready."""
        self._graph.vpush(frame)
        with contextlib.suppress(av.BlockingIOError, av.EOFError):  # needs the next frame
            while True:
                yield self._graph.vpull()

    def rest(self) -> Iterator[av.VideoFrame]:
        """Flushes the filter and yields the remaining frames."""
        return self.push(None)


def _kind(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Deinterlaces the frames that are flagged as interlaced."""
    deinterlacer: _Deinterlacer | None = None
    for frame in frames:
        if deinterlacer is not None and not deinterlacer.accepts(frame):
            yield from deinterlacer.rest()
            deinterlacer = None
        if deinterlacer is None and frame.interlaced_frame:
            deinterlacer = _Deinterlacer(frame)
        if deinterlacer is None:
            yield frame
        else:
            yield from deinterlacer.push(frame)
    if deinterlacer is not None:
        yield from deinterlacer.rest()


def timed(frames: Iterable[av.VideoFrame], fps: float) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Yields frames with increasing times in seconds from 0; implausible time stamps are replaced."""
    time, interval = Fraction(0), 1 / Fraction(fps or 25)
    before: Fraction | None = None
    for number, frame in enumerate(frames):
        stamp = None if frame.pts is None else frame.pts * Fraction(frame.time_base)
        if stamp is not None and before is not None and 0 < stamp - before <= MAX_GAP:
            interval = stamp - before
        time += interval if number else 0
        yield time, frame
        before = stamp


def resampled(frames: Iterable[tuple[Fraction, np.ndarray]], fps: float) -> Iterator[np.ndarray]:
    """Yields, for each time 0, 1 / fps, 2 / fps, ..., the nearest frame; the earlier one if two are equally near.

    Args:
      frames: pairs of time in seconds, increasing from 0, and frame.
      fps: frames per second of the result.
    """
    step = 1 / Fraction(fps).limit_denominator(10**6)
    due, before, interval = Fraction(0), Fraction(0), step
    shown: np.ndarray | None = None
    for time, frame in frames:
        while shown is not None and due - before <= time - due:
            yield shown
            due += step
        if shown is not None:
            interval = time - before
        shown, before = frame, time
    # The last frame has the duration of the previous one.
    while shown is not None and due + step / 2 <= before + interval:
        yield shown
        due += step
