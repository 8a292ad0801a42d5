"""Decodes video files and folders of frames to RGB frames, as a good player shows them.

PyAV decodes with one thread, because several worker processes share the processors. Only a few decoded frames of a
video are in memory at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from tganv2_tf.errors import VideoError as VideoError
from tganv2_tf.runtime import lanes
from tganv2_tf.storage.files import Path
from tganv2_tf.video_io.display import Display, deinterlaced, resampled, timed
from tganv2_tf.video_io.frame_folders import frame_paths, open_frames
from tganv2_tf.video_io.video_frames import Damage, VideoFrames

if "OPENCV_LOG_LEVEL" not in os.environ:
    lanes.silence_opencv()
av.logging.set_skip_repeated(False)  # _Log must see every message

TEXT_BYTES = 64
PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp"}  # formats of FFmpeg that name other files
TEXT = bytes([*b"\t\n\r\f", *range(32, 127)])
MIN_FRAME_BYTES = 16  # per compressed frame; bounds the number of frames that a damaged header can claim
MAX_READ_ERRORS = 100  # consecutive; a damaged index can list any number of packets


def open_video(path: Path, fps: float = 0.0) -> VideoFrames:
    """Opens a video file or a folder of frames (see `frame_folders.open_frames`).

    The main stream is the one with most pixels, except cover pictures. Colour matrix and range are those declared;
    undeclared, the matrix is BT.709 from 720 rows or 1280 columns up, else BT.601. Primaries are not converted. Frames
    are rotated and mirrored by the display matrix, enlarged in one direction if pixels are not square, and deinterlaced
    if flagged as interlaced. Grey becomes three equal channels; transparency is dropped.

    Frames that the decoder recovers from a damaged file, before and after the damage, are kept.

    Args:
      path: path of the file or folder.
      fps: frames per second to resample to, by the nearest frame in time; 0 = return each coded frame once.
    Raises:
      VideoError: the file is missing, empty, not a video, or HDR; or `fps` is set for a folder of frames.
    """
    if os.path.isdir(path):
        if fps:
            raise VideoError("a folder of frames has no frame rate, so it cannot be resampled")
        return open_frames(path)
    container, stream = _open(path)
    display, damage = Display(stream), Damage(header_frames=stream.frames)
    frames = _frames(container, stream, display, damage, fps)
    return VideoFrames(fps or _rate(stream), frames, damage)


def _open(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Opens the container; returns it and its main stream."""
    absolute = os.path.realpath(path)
    if not os.path.isfile(absolute):
        raise VideoError("the file is missing")
    if not os.path.getsize(absolute):
        raise VideoError("the file is empty")
    try:
        absolute.encode()
    except UnicodeEncodeError as error:
        raise VideoError("its name or that of its folder is not valid UTF-8; rename it") from error
    with open(absolute, "rb") as file:
        head = file.read(TEXT_BYTES)
    # Security: FFmpeg would follow playlists (HLS, ffconcat), with any extension, to other files of this machine.
    if not head.translate(None, TEXT) and not head.startswith(b"YUV4MPEG2 "):
        raise VideoError("it cannot be opened as a video")
    try:
        container = av.open(
            f"file:{absolute}", metadata_errors="replace", container_options={"protocol_whitelist": "file"}
        )
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("it cannot be opened as a video") from error
    if PLAYLISTS & set(container.format.name.split(",")):
        container.close()
        raise VideoError("it cannot be opened as a video")
    return container, _main_stream(container)


def _main_stream(container: av.container.InputContainer) -> av.VideoStream:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    decoded = [stream for stream in streams if stream.codec_context is not None]
    if streams and not decoded:
        raise VideoError("there is no decoder for it; convert it with ffmpeg")
    if not decoded:
        raise VideoError("it cannot be opened as a video")
    stream = max(decoded, key=lambda each: each.codec_context.width * each.codec_context.height)
    stream.codec_context.thread_count = 1
    return stream


def _rate(stream: av.VideoStream) -> float:
    """Returns the frames per second; the mean if the rate varies, 0 if unknown."""
    rate, mean = stream.guessed_rate, stream.average_rate
    if mean and rate and not 0.9 < rate / mean < 1.1:
        rate = mean
    return float(rate) if rate and rate > 0 else 0.0


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, display: Display, damage: Damage, fps: float
) -> Iterator[np.ndarray]:
    with container:
        try:
            decoded = deinterlaced(_decoded(container, stream, damage))
            if fps:
                shown = ((time, display.shown(frame)) for time, frame in timed(decoded, _rate(stream)))
                yield from resampled(shown, fps)
            else:
                yield from map(display.shown, decoded)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError("its frames cannot be converted to RGB") from error
        if not damage.num_frames:
            raise VideoError("none of its frames can be decoded")


def _decoded(container: av.container.InputContainer, stream: av.VideoStream, damage: Damage) -> Iterator[av.VideoFrame]:
    """Yields all frames that can be decoded, and records the damage."""
    packets, errors = container.demux(stream), 0
    log_names = container.format.name, stream.codec_context.name
    num_packets = end = longest = 0  # the latter two in units of the stream's time base
    while errors < MAX_READ_ERRORS:
        packet, frames = None, []
        with _Log(*log_names) as log:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                errors = 0
                frames = packet.decode()
            except av.FFmpegError:
                log.has_errors = True
                if packet is None:
                    errors += 1
                    packets = container.demux(stream)  # an iterator that has raised is exhausted
        if packet is not None:
            log.has_errors |= packet.is_corrupt
            num_packets += packet.dts is not None or packet.size > 0
            if packet.pts is not None and packet.duration and not packet.is_discard:
                end, longest = max(end, packet.pts + packet.duration), max(longest, packet.duration)
        damage.bad_packets += log.has_errors
        damage.num_frames += len(frames)
        yield from frames
    if errors == MAX_READ_ERRORS:
        with contextlib.suppress(av.FFmpegError):
            rest = stream.codec_context.decode(None)
            damage.num_frames += len(rest)
            yield from rest
    promised = _promised_end(container, stream)
    if promised is None:
        one_more = len(container.streams) > 1  # FFmpeg counts an empty packet in AVI files with longer audio
        damage.incomplete = num_packets < damage.header_frames - one_more
        return
    # Compares times, not numbers of frames: the header also counts samples outside the edit list, which may be missing.
    damage.incomplete = (end + 2 * longest) * stream.time_base < promised
    if damage.incomplete and not damage.header_frames:
        damage.header_frames = round(promised * Fraction(_rate(stream)))


def _promised_end(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """Returns the end of the last frame in seconds according to the file's header; None if unknown."""
    if "mp4" in container.format.name and stream.duration and stream.time_base:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    if stream.frames or not {"matroska", "flv"} & set(container.format.name.split(",")):
        return None
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if written:
        hours, minutes, seconds = map(Fraction, written.groups())
        return 3600 * hours + 60 * minutes + seconds
    if len(container.streams) == 1 and container.duration:
        return Fraction(container.duration, av.time_base)
    return None


class _Log:
    """Watches FFmpeg's log during reading and decoding: it reports skipped or concealed damage nowhere else."""

    def __init__(self, *names: str) -> None:
        """Args are the names of the format and the codec whose errors count."""
        self._names, self.has_errors = names, False

    def __enter__(self) -> _Log:
        self._level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        self._capture = av.logging.Capture()
        self._messages = self._capture.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._capture.__exit__(*raised)
        av.logging.set_level(self._level)
        for level, name, text in self._messages:
            if name in self._names and (level <= av.logging.ERROR or text.startswith("concealing ")):
                self.has_errors = True


def claimed_num_frames(path: Path) -> int:
    """Returns the number of frames in a file's header (often wrong), or of images in a folder; 0 if unknown.

    Raises:
      VideoError: the file cannot be opened.
      OSError: the folder cannot be read.
    """
    if os.path.isdir(path):
        return len(frame_paths(path))
    container, stream = _open(path)
    with container:
        length = stream.duration * stream.time_base if stream.duration and stream.time_base else None
        if length is None and container.duration:
            length = Fraction(container.duration, av.time_base)
        claimed = max(0, stream.frames or int((length or 0) * _rate(stream)))
    return min(claimed, os.path.getsize(path) // MIN_FRAME_BYTES)
