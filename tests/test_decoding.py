"""Decoding of videos made by ffmpeg: the frames must look as a good player shows them, compared with what was drawn."""

from __future__ import annotations

import json
import pathlib
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from tests.forking import fork_command
from tganv2_tf.data.manifest import Damaged, Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.video_io.decoding import VideoError, claimed_num_frames, open_video
from tganv2_tf.video_io.display import resampled
from tganv2_tf.video_io.encoding import encoder
from tganv2_tf.video_io.geometry import fit

TOLERANCE = 4  # in grey levels
SIDE, FRAMES = 64, 12
RED, GREEN, BLUE, SKIN = (200, 30, 30), (30, 180, 40), (30, 60, 200), (224, 172, 140)
MATRICES = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc"}
CODECS = {
    "h264": ("mp4", "yuv420p", "-c:v", "libx264", "-crf", "4"),
    "h264 4:4:4": ("mkv", "yuv444p", "-c:v", "libx264", "-crf", "4"),
    "hevc 10 bits": ("mp4", "yuv420p10le", "-c:v", "libx265", "-crf", "4", "-x265-params", "log-level=none"),
    "vp9": ("webm", "yuv420p", "-c:v", "libvpx-vp9", "-crf", "4", "-b:v", "0", "-cpu-used", "8"),
    "av1": ("mp4", "yuv420p", "-c:v", "libaom-av1", "-crf", "4", "-cpu-used", "8"),
}
LOSSLESS = ("-c:v", "libx264rgb", "-crf", "0", "-preset", "ultrafast")


def _quarters(height: int = SIDE, width: int = SIDE, frames: int = FRAMES) -> np.ndarray:
    """Draws red, green / blue, skin: uint8 [T, H, W, 3]."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, SKIN
    return np.broadcast_to(picture, (frames, *picture.shape))


def _greys(frames: int, side: int = SIDE) -> np.ndarray:
    """Frame t has grey level 3 t."""
    return np.full((frames, side, side, 3), 3 * np.arange(frames)[:, None, None, None], np.uint8)


def _moving(frames: int = 48) -> np.ndarray:
    """Moving noise, so that frames depend on earlier ones."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE + 3 * frames, 1), np.uint8).repeat(3, axis=-1)
    return np.stack([noise[:, 3 * t : 3 * t + SIDE] for t in range(frames)])


def _ffmpeg(*arguments: str | pathlib.Path, stdin: bytes | None = None) -> bytes:
    command = [get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=stdin, check=True, stdout=subprocess.PIPE).stdout


def _described(path: pathlib.Path) -> str:
    """Returns ffmpeg's description of a file."""
    return subprocess.run([get_ffmpeg_exe(), "-i", path], stderr=subprocess.PIPE, text=True).stderr


def _raw(frames: np.ndarray, rate: float = 25) -> list[str]:
    height, width = frames.shape[1:3]
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]


def _encode(path: pathlib.Path, frames: np.ndarray, *options: str, rate: float = 25) -> pathlib.Path:
    _ffmpeg(*_raw(frames, rate), *(options or LOSSLESS), path, stdin=frames.tobytes())
    return path


def _decode(path: pathlib.Path, fps: float = 0.0) -> np.ndarray:
    return np.stack(list(open_video(path, fps).frames)).astype(int)


def _assert_close(frames: np.ndarray, drawn: np.ndarray) -> None:
    """Returns the centre of each quarter, as codecs smear edges."""
    assert frames.shape == drawn.shape
    height, width = frames.shape[1:3]
    for rows in (slice(height // 8, 3 * height // 8), slice(5 * height // 8, 7 * height // 8)):
        for columns in (slice(width // 8, 3 * width // 8), slice(5 * width // 8, 7 * width // 8)):
            np.testing.assert_allclose(frames[:, rows, columns], drawn[:, rows, columns], atol=TOLERANCE)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("scale", ["tv", "pc"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_declared_matrices_and_ranges(tmp_path: pathlib.Path, matrix: str, scale: str, codec: str) -> None:
    extension, pixels, *options = CODECS[codec]
    convert = f"scale=out_color_matrix={matrix}:out_range={scale}:flags=accurate_rnd+full_chroma_int,format={pixels}"
    tags = ["-colorspace", MATRICES[matrix], "-color_range", scale]
    path = _encode(tmp_path / f"a.{extension}", _quarters(frames=3), "-vf", convert, *options, *tags)
    _assert_close(_decode(path), _quarters(frames=3))


@pytest.mark.parametrize(
    ("height", "width", "matrix"),
    [(576, 704, "bt601"), (64, 1276, "bt601"), (720, 96, "bt709"), (96, 1280, "bt709")],
)
def test_undeclared_matrices_go_by_the_size(tmp_path: pathlib.Path, height: int, width: int, matrix: str) -> None:
    drawn = _quarters(height, width, 1)
    convert = f"scale=out_color_matrix={matrix}:out_range=tv,format=yuv420p"
    untagged = f"{convert},setparams=colorspace=unknown:range=unknown"
    path = _encode(tmp_path / "a.mkv", drawn, "-vf", untagged, "-c:v", "libx264", "-crf", "4")
    assert "yuv420p(progressive)" in _described(path)
    _assert_close(_decode(path), drawn)


@pytest.mark.parametrize("width", [64, 50, 33])  # FFmpeg pads rows
@pytest.mark.parametrize(
    ("kind", "codec", "pixels"),
    [
        ("mov", "rawvideo", "rgb24"),
        ("avi", "rawvideo", "bgr24"),  # stored bottom-up
        ("mkv", "ffv1", "bgr0"),
        ("mkv", "ffv1", "gbrp10le"),
        ("mov", "qtrle", "rgb24"),
        ("mov", "png", "rgba"),
        ("mkv", "libx264rgb", "rgb24"),
    ],
)
def test_rgb_stays_as_it_is(tmp_path: pathlib.Path, kind: str, codec: str, pixels: str, width: int) -> None:
    drawn = _quarters(40, width)
    exact = ["-qp", "0"] if codec == "libx264rgb" else []
    path = _encode(tmp_path / f"a.{kind}", drawn, "-c:v", codec, "-pix_fmt", pixels, *exact)
    np.testing.assert_allclose(_decode(path), drawn, atol=1 if "10" in pixels else 0)


@pytest.mark.parametrize("mirror", [(), ("-display_hflip",)])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_all_orientations(tmp_path: pathlib.Path, turn: int, mirror: tuple[str, ...]) -> None:
    drawn = _quarters(48, SIDE)
    flat = _encode(tmp_path / "flat.mp4", drawn, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "4")
    path = tmp_path / "turned.mp4"
    _ffmpeg("-display_rotation", str(turn), *mirror, "-i", flat, "-c", "copy", path)
    shown = np.rot90(drawn, turn // 90, (1, 2))  # counter-clockwise, as displayed
    if mirror:
        shown = shown[:, :, ::-1]
    _assert_close(_decode(path), shown)
    by_ffmpeg = np.frombuffer(_ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), np.uint8)
    _assert_close(by_ffmpeg.reshape(shown.shape).astype(int), shown)


@pytest.mark.parametrize(
    ("pixel", "size"), [("1", (96, 160)), ("2", (96, 160)), ("64/45", (96, 136)), ("1/2", (192, 96))]
)
def test_circles_are_round(tmp_path: pathlib.Path, pixel: str, size: tuple[int, int]) -> None:
    shape = float(Fraction(pixel))
    height, width = size
    down, across = np.mgrid[:height, :width] + 0.5
    # As displayed, 40 pixels of the finer direction wide or high, centred.
    unit = (shape, 1.0) if shape > 1 else (1.0, 1 / shape)
    inside = ((across - width / 2) * unit[0]) ** 2 + ((down - height / 2) * unit[1]) ** 2 < 40**2
    drawn = np.where(inside[None, ..., None], 230, 20).astype(np.uint8).repeat(3, axis=-1)
    path = _encode(tmp_path / "a.mp4", drawn, "-vf", f"setsar={pixel}", "-c:v", "libx264", "-crf", "4")
    (frame,) = _decode(path)
    assert frame.shape[:2] == (round(height * unit[1]), round(width * unit[0]))
    square = fit(frame.astype(np.uint8), "paper", 96)[..., 0] > 125
    expected = 80 * 96 / min(frame.shape[:2])
    assert square.any(axis=0).sum() == pytest.approx(expected, abs=1.5)
    assert square.any(axis=1).sum() == pytest.approx(expected, abs=1.5)


def test_impossible_pixels_are_refused(tmp_path: pathlib.Path) -> None:
    path = _encode(tmp_path / "a.mp4", _quarters(), "-vf", "setsar=1/50", "-c:v", "libx264")
    with pytest.raises(VideoError, match="1/50 times as wide as high"):
        open_video(path)


def test_the_main_stream(tmp_path: pathlib.Path) -> None:
    small = _encode(tmp_path / "small.mkv", _quarters(16, 16)[:, :, ::-1])
    large = _encode(tmp_path / "large.mkv", _quarters())
    both = tmp_path / "both.mkv"
    _ffmpeg("-i", small, "-i", large, "-map", "0", "-map", "1", "-c", "copy", both)
    np.testing.assert_array_equal(_decode(both), _quarters())
    cover = _encode(tmp_path / "cover.png", _quarters(128, 128, 1)[:, :, ::-1], "-frames:v", "1")
    covered = tmp_path / "covered.mp4"
    as_cover = ["-c:v", "copy", "-disposition:v:0", "attached_pic"]
    _ffmpeg("-i", cover, "-i", large, "-map", "0", "-map", "1", *as_cover, covered)
    np.testing.assert_array_equal(_decode(covered), _quarters())
    sound = tmp_path / "sound.mp4"
    _ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", "-i", cover, *as_cover, sound)
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        open_video(sound)


def test_edit_lists(tmp_path: pathlib.Path) -> None:
    whole = _encode(tmp_path / "whole.mp4", _greys(50), *LOSSLESS, "-g", "50")
    cut = tmp_path / "cut.mp4"
    _ffmpeg("-ss", "0.8", "-i", whole, "-c", "copy", cut)  # from frame 20 on; earlier frames remain in the file
    opened = open_video(cut)
    frames = np.stack(list(opened.frames))
    np.testing.assert_array_equal(frames[:, 0, 0, 0], 3 * np.arange(20, 50))
    assert opened.damage.header_frames == 50 and opened.damage.reason == ""


@pytest.mark.parametrize("curve", [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_refused_with_a_way_out(tmp_path: pathlib.Path, curve: tuple[str, str]) -> None:
    name, short = curve
    tags = f"log-level=none:colorprim=bt2020:transfer={name}:colormatrix=bt2020nc"
    options = ["-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", tags]
    path = _encode(tmp_path / "hdr.mp4", _quarters(), *options)
    with pytest.raises(VideoError, match=rf"^it is HDR \({short}\); convert it first: ffmpeg ") as error:
        open_video(path)
    command = str(error.value).partition(": ffmpeg ")[2]
    words = command.replace("IN.mp4", str(path)).replace("OUT.mp4", str(tmp_path / "sdr.mp4")).split()
    _ffmpeg(*words)
    assert _decode(tmp_path / "sdr.mp4").shape == _quarters().shape


def _fields(frames: np.ndarray) -> np.ndarray:
    """Interlaces two frames into one: the even rows of the first, the odd rows of the second."""
    woven = frames[::2].copy()
    woven[:, 1::2] = frames[1::2, 1::2]
    return woven


def _combs(frames: np.ndarray) -> float:
    """Ratio of differences between neighbouring rows to those between rows of the same field."""
    frames = frames.astype(float)
    return float(np.abs(np.diff(frames, axis=1)).mean() - np.abs(frames[:, 2:] - frames[:, :-2]).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mpg", ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-top", "1", "-q:v", "2")),
        ("a.mkv", ("-c:v", "libx264", "-flags", "+ildct+ilme", "-crf", "8", "-colorspace", "bt709")),
    ],
)
def test_interlaced_frames_are_deinterlaced(tmp_path: pathlib.Path, name: str, options: tuple[str, ...]) -> None:
    bar = np.full((24, SIDE, 96, 3), 30, np.uint8)
    for t in range(24):
        bar[t, :, 3 * t : 3 * t + 12] = 220
    woven = _fields(bar)
    assert _combs(woven) > 10
    matrix = "bt709" if "-colorspace" in options else "bt601"
    fields = f"setfield=tff,scale=out_color_matrix={matrix}:out_range=tv:interl=1,format=yuv420p"
    path = _encode(tmp_path / name, woven, "-vf", fields, *options)
    frames = _decode(path)
    assert len(frames) == len(woven)
    assert _combs(frames[1:-1]) < 2
    assert np.abs(frames[4:8, ::2] - woven[4:8, ::2]).mean() < 4  # the first field is kept


def test_progressive_frames_stay_as_they_are(tmp_path: pathlib.Path) -> None:
    # Rows that look interlaced, in a file that is not marked as such.
    rows = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    rows[:, ::2] = 200
    np.testing.assert_array_equal(_decode(_encode(tmp_path / "a.mkv", rows)), rows)


def test_a_stream_that_becomes_interlaced(tmp_path: pathlib.Path) -> None:
    options = ["-c:v", "mpeg2video", "-q:v", "2", "-f", "mpegts"]
    plain = _encode(tmp_path / "plain.ts", _quarters(), *options)
    fields = _encode(tmp_path / "fields.ts", _quarters(), "-vf", "setfield=tff", "-flags", "+ildct+ilme", *options)
    small = _encode(tmp_path / "small.ts", _quarters(32, 32), "-vf", "setfield=tff", "-flags", "+ildct+ilme", *options)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(plain.read_bytes() + fields.read_bytes() + small.read_bytes())
    frames = list(open_video(joined).frames)
    assert 3 * FRAMES - 2 <= len(frames) <= 3 * FRAMES  # a decoder may need the start of a sequence
    assert frames[FRAMES + 4].shape == (SIDE, SIDE, 3) and frames[-1].shape == (32, 32, 3)
    _assert_close(np.stack(frames[FRAMES : FRAMES + 4]), _quarters(frames=4))


def _damaged(path: pathlib.Path, where: float, num_bytes: int) -> pathlib.Path:
    content = bytearray(path.read_bytes())
    start = int(len(content) * where)
    content[start : start + num_bytes] = b"\x5a" * num_bytes
    other = path.with_stem(f"{path.stem} damaged")
    other.write_bytes(content)
    return other


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", ("-c:v", "libx264", "-g", "12", "-bf", "0")),
        ("a.mkv", ("-c:v", "libx264", "-g", "12", "-bf", "0")),
        ("a.avi", ("-c:v", "mpeg4", "-q:v", "3", "-g", "12")),
        ("a.mpg", ("-c:v", "mpeg2video", "-q:v", "3", "-g", "12")),
    ],
)
def test_sound_frames_before_and_after_damage_are_kept(
    tmp_path: pathlib.Path, name: str, options: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    path = _encode(tmp_path / name, _moving(), *options)
    opened = open_video(path)
    whole = np.stack(list(opened.frames))
    assert len(whole) == 48 and opened.damage.reason == "" and opened.damage.bad_packets == 0
    broken = _damaged(path, 0.4, 400)
    opened = open_video(broken)
    frames = np.stack(list(opened.frames))
    as_they_are = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    by_ffmpeg = _ffmpeg("-v", "quiet", "-i", broken, *as_they_are)
    assert 36 <= len(by_ffmpeg) // SIDE**2 <= len(frames) <= 48
    np.testing.assert_array_equal(frames[:12], whole[:12])
    np.testing.assert_array_equal(frames[-12:], whole[-12:])  # the damage ends at the next keyframe
    damage = opened.damage
    assert damage.bad_packets and damage.num_frames == len(frames)
    header = {"a.mp4": 48, "a.avi": 48}.get(name, 0)
    expected = f" of the {header} that its header states" if header else ""
    assert damage.header_frames == header
    assert damage.reason == (
        f"damaged: {len(frames)} frames{expected} were decoded, {damage.bad_packets} packets with errors"
    )
    assert capfd.readouterr() == ("", "")


def test_one_lost_frame_is_told(tmp_path: pathlib.Path) -> None:
    path = _encode(tmp_path / "a.avi", _moving(), "-c:v", "huffyuv")
    content = path.read_bytes()
    frame = content.index(b"00dc", len(content) // 2)
    path.write_bytes(content[:frame] + b"JUNK" + content[frame + 4 :])
    opened = open_video(path)
    assert len(list(opened.frames)) == 47
    assert opened.damage.reason == "damaged: 47 frames of the 48 that its header states were decoded"


def test_a_frame_that_breaks_off_is_told(tmp_path: pathlib.Path) -> None:
    path = _encode(tmp_path / "a.avi", _moving(), "-c:v", "huffyuv")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"00dc", 0, content.rindex(b"idx1")) + 1000])
    opened = open_video(path)
    assert len(list(opened.frames)) == 48
    assert opened.damage.bad_packets == 1


def test_a_concealed_slice_is_told(tmp_path: pathlib.Path) -> None:
    # A quarter of a picture is lost; the decoder conceals it with the previous picture.
    path = _encode(tmp_path / "a.h264", _moving(), "-c:v", "libx264", "-x264-params", "slices=4:bframes=0:keyint=12")
    content, units = path.read_bytes(), [0]
    while (at := content.find(b"\0\0\1", units[-1] + 3)) > 0:
        units.append(at)
    path.write_bytes(content[: units[60]] + content[units[61] :])
    opened = open_video(path)
    assert len(list(opened.frames)) == 48
    assert opened.damage.reason == "damaged: 48 frames were decoded, 1 packets with errors"


def test_damaged_videos_are_neither_scored_nor_projected(tmp_path: pathlib.Path) -> None:
    from tganv2_tf.evaluation import projection, samples

    path = _encode(tmp_path / "a.mp4", _moving(), "-c:v", "libx264", "-g", "12", "-bf", "0")
    broken = _damaged(path, 0.2, 400)
    with pytest.raises(UserError, match=r"a damaged\.mp4: its first 16 frames are damaged; remove it from the folder"):
        list(samples.folder_batches([broken], 1, "range"))
    with pytest.raises(UserError, match=r"a damaged\.mp4: the clip or the video before it is damaged"):
        projection.read_clip(broken, 16, 16)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", ("-c:v", "libx264", "-movflags", "+faststart")),
        ("a.mkv", ("-c:v", "libx264")),
        ("a.webm", ("-c:v", "libvpx-vp9", "-cpu-used", "8")),
        ("a.avi", ("-c:v", "mpeg4", "-q:v", "3")),
        ("a.flv", ("-c:v", "flv", "-q:v", "3")),
    ],
)
def test_the_missing_end_is_told(tmp_path: pathlib.Path, name: str, options: tuple[str, ...]) -> None:
    path = _encode(tmp_path / name, _moving(), *options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    opened = open_video(path)
    num_frames = len(list(opened.frames))
    assert 15 <= num_frames <= 40
    assert opened.damage.header_frames == 48
    assert opened.damage.reason.startswith(f"damaged: {num_frames} frames of the 48 that its header states")


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "mov", "webm", "mpg", "ts", "ogv", "gif", "y4m"])
def test_nothing_is_said_of_sound_files(tmp_path: pathlib.Path, kind: str, sound: bool) -> None:
    longer = ["-f", "lavfi", "-i", "sine=duration=3"] if sound else []
    path, options = tmp_path / f"a.{kind}", ["-pix_fmt", "yuv420p", "-b:v", "1M"]
    if kind in ("gif", "y4m"):  # they have no sound
        longer, options = [], options[:2] if kind == "y4m" else []
    _ffmpeg(*_raw(_moving()), *longer, *options, path, stdin=_moving().tobytes())
    opened = open_video(path)
    assert len(list(opened.frames)) == 48
    assert opened.damage.reason == ""


def test_variable_frame_rates(tmp_path: pathlib.Path) -> None:
    # 10 frames at intervals of 1/25 s, then 10 at four times that: 2 seconds in total.
    times = "setpts='if(lt(N,10),N,10+(N-10)*4)/25/TB'"
    path = _encode(tmp_path / "a.mkv", _greys(20), "-vf", times, "-fps_mode", "vfr", *LOSSLESS)
    opened = open_video(path)
    assert [int(frame[0, 0, 0]) for frame in opened.frames] == [3 * t for t in range(20)]
    assert opened.damage.reason == ""
    opened = open_video(path, fps=25)
    shown = [int(frame[0, 0, 0]) // 3 for frame in opened.frames]
    nearest = [*range(11), 10, 10, *(t for t in range(11, 19) for _ in range(4))]
    assert opened.fps == 25 and shown[: len(nearest)] == nearest and set(shown[len(nearest) :]) == {19}
    assert len(shown) == 50


@pytest.mark.parametrize("rate", [10, 25, 30])
@pytest.mark.parametrize("fps", [10, 12.5, 25, 30])
def test_frame_rates_can_be_mixed(tmp_path: pathlib.Path, rate: int, fps: float) -> None:
    frames = _greys(2 * rate, 16)  # two seconds
    path = _encode(tmp_path / "a.mkv", frames, rate=rate)
    shown = _decode(path, fps)[:, 0, 0, 0] / 3
    assert len(shown) == 2 * fps
    exact = np.arange(len(shown)) * rate / fps
    assert np.abs(shown - np.minimum(exact, 2 * rate - 1)).max() <= 0.5 + 0.02  # time stamps are in milliseconds


def test_resampling_by_hand() -> None:
    def numbers(times: list[str], fps: float) -> list[int]:
        timed = ((Fraction(time), np.full(1, number)) for number, time in enumerate(times))
        return [int(frame[0]) for frame in resampled(timed, fps)]

    assert numbers(["0", "1/10", "2/10", "3/10"], 5) == [0, 2]
    assert numbers(["0", "1/5"], 10) == [0, 0, 1, 1]  # the earlier of two equally near frames
    assert numbers(["0", "3/10", "4/10"], 10) == [0, 0, 1, 1, 2]
    assert numbers(["0"], 10) == [0]
    assert numbers([], 10) == []


def test_impossible_time_stamps_end(tmp_path: pathlib.Path) -> None:
    path = _encode(tmp_path / "a.mkv", _greys(10), "-vf", "setpts='(N+gte(N,5)*90000000)/25/TB'", *LOSSLESS)
    assert len(_decode(path, fps=25)) == 10


def test_the_number_of_frames_by_the_header(tmp_path: pathlib.Path) -> None:
    for name in ("a.avi", "a.mkv", "a.mp4"):
        assert claimed_num_frames(_encode(tmp_path / name, _quarters())) == FRAMES


def test_a_video_without_frames_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"a\.mp4: there are no frames to write"), encoder(tmp_path / "a.mp4", 10):
        pass
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (720, 1280)])
def test_mp4_files_of_ours_keep_their_colours(tmp_path: pathlib.Path, height: int, width: int) -> None:
    drawn = _quarters(height, width, 2)
    with encoder(tmp_path / "a.mp4", 10) as write:
        write(drawn)
    frames = _decode(tmp_path / "a.mp4")
    for y, x in ((1, 1), (1, 3), (3, 1), (3, 3)):
        at = (slice(None), y * height // 4, x * width // 4)
        np.testing.assert_allclose(frames[at], drawn[at], atol=3)
    assert "yuv420p(tv, bt709, progressive)" in _described(tmp_path / "a.mp4")


def test_damage_and_rates_from_files_to_the_manifest_and_back(tmp_path: pathlib.Path) -> None:
    folder, data = tmp_path / "videos", tmp_path / "data"
    folder.mkdir()
    path = _encode(folder / "a.mp4", _moving(), "-c:v", "libx264", "-g", "12", "-bf", "0")
    _damaged(path, 0.4, 400)
    _encode(folder / "slow.mkv", _greys(20), rate=10)
    arguments = [f"--video_dir={folder}", f"--output_dir={data}", "--resolution=16", "--num_workers=1"]
    result = fork_command("tests.quickly", "data_prep.video_folder", *arguments)
    assert result.returncode == 0, result.stderr
    manifest = Manifest.load(data)
    (damaged,) = manifest.damaged
    assert damaged.video == "a damaged.mp4" and damaged.header_frames == 48 and 40 <= damaged.num_frames <= 47
    lines = result.stdout.splitlines()
    at = lines.index("1 of 3 videos are damaged; only their decodable frames are in the data set:")
    assert lines[at + 1] == f"  a damaged.mp4: {damaged.reason}"
    assert manifest.frame_rates == {"10": 1, "25": 2} and manifest.fps == 25 and manifest.num_videos == 3
    result = fork_command("tests.quickly", "data_prep.verify", f"--data_dir={data}")
    assert result.returncode == 0 and f"note: 'a damaged.mp4': {damaged.reason}" in result.stdout.splitlines()
    assert "frames per second: 10 (1 videos), 25 (2 videos)" in result.stdout.splitlines()

    # The same command finds the data set complete; another rate is rejected.
    result = fork_command("tests.quickly", "data_prep.video_folder", *arguments, "--fps=5")
    assert result.returncode == 1 and "--fps=None (now 5.0)" in result.stderr
    other = [argument.replace(str(data), str(tmp_path / "other")) for argument in arguments]
    result = fork_command("tests.quickly", "data_prep.video_folder", *other, "--fps=5", "--min_frames=8")
    assert result.returncode == 0, result.stderr
    manifest = Manifest.load(tmp_path / "other")
    assert manifest.options["fps"] == 5 and manifest.frame_rates == {"5": 3}
    assert manifest.num_frames == 10 + 10 + 10


def test_manifests_of_older_versions_are_read(tmp_path: pathlib.Path) -> None:
    from tganv2_tf.data.manifest import Shard

    kept = [Damaged("a", 9, 8, "damaged")]
    manifest = Manifest("x", "train", 8, 8, [], {}, [Shard("s", 1, "", 1, 1, 1)], [], kept, {"0": 5, "24": 1, "30": 2})
    manifest.save(tmp_path)
    assert Manifest.read(tmp_path) == manifest and manifest.fps == 30
    file = tmp_path / "manifest.json"
    old = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("damaged", "frame_rates")}
    file.write_text(json.dumps(old))
    assert Manifest.read(tmp_path).damaged == [] and Manifest.read(tmp_path).fps == 0
