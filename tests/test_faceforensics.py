"""FaceForensics: folder layouts in circulation, and the command end to end on drawn faces with lossy masks."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from data_prep import face_boxes, faceforensics, readers
from data_prep.faceforensics import FaceForensicsOptions
from data_prep.shard_writer import Video
from tests import faces
from tests.conftest import run_command
from tests.forking import fork_command
from tganv2_tf.data import records
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.video_io.decoding import VideoError, open_video

FACE_VIDEO = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "videos" / "carphone_pristine.mp4"
FRAMES = 24
RADIUS = 20
SIDE = 44  # 2.2 radii
Path = Sequence[tuple[float, float]]

STEADY: Path = [(60 + t, 60) for t in range(FRAMES)]


def _write(
    folder: pathlib.Path,
    name: str,
    path: Path = STEADY,
    *,
    masks: Sequence[np.ndarray] | None = None,
    extension: str = "avi",
    codec: str = "mp4v",
) -> None:
    """Writes one video and its masks, or the given masks."""
    boxes = [faces.face_box(x, y, RADIUS) for x, y in path]
    faces.write_lossy(
        folder / "original" / f"{name}.{extension}", [faces.draw_face(x, y, RADIUS) for x, y in path], codec
    )
    masks = [faces.draw_mask(box) for box in boxes] if masks is None else masks
    if len(masks):
        faces.write_lossy(folder / "mask" / f"{name}.{extension}", masks, codec)


def _masks(path: Path = STEADY, empty: Sequence[int] = ()) -> list[np.ndarray]:
    boxes = [faces.face_box(x, y, RADIUS) for x, y in path]
    return [faces.draw_mask(None if t in empty else box) for t, box in enumerate(boxes)]


def _options(root: pathlib.Path, **changes: Any) -> FaceForensicsOptions:
    return FaceForensicsOptions(**{"root": str(root), "split": "train", "resolution": 48, **changes})


def _read(root: pathlib.Path, name: str, resolution: int = SIDE, **changes: Any) -> np.ndarray:
    """Returns the crops of one video, uint8 [T, R, R, 3]."""
    data_set = faceforensics.data_set(_options(root, **changes))
    (video,) = (video for video in data_set.videos if video.id == name)
    assert isinstance(data_set.reader, functools.partial)
    return np.stack(list(data_set.reader(video, resolution=resolution).frames))


def _noses(crops: np.ndarray) -> np.ndarray:
    return np.array([faces.find_nose(crop) for crop in crops])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with all kinds of faults; two thirds of its twelve videos are valid."""
    folder = tmp_path_factory.mktemp("faces")
    train = folder / "train"
    _write(train, "steady")
    _write(train, "motion_jpeg", codec="MJPG")
    _write(train, "matroska", extension="mkv")
    _write(train, "gaps", masks=_masks(empty=(0, 9, 10, 11, 12, 23)))
    _write(train, "border", [(8 + t / 4, 115) for t in range(FRAMES)])
    _write(train, "one_mask_less", masks=_masks()[:-1])
    _write(train, "half_size", masks=[mask[::2, ::2] for mask in _masks()])
    _write(train, "capitals", extension="AVI")
    _write(train, "no_mask", masks=[])
    _write(train, "no_face", masks=_masks(empty=range(FRAMES)))
    _write(train, "short_mask", masks=_masks()[:-3])
    _write(train, "other_shape", masks=[mask[:, :120] for mask in _masks()])
    (train / "mask" / "._steady.avi").write_bytes(b"of a Mac")
    (train / "original" / "list.txt").write_text("steady")
    return folder


GOOD = {"steady", "motion_jpeg", "matroska", "gaps", "border", "one_mask_less", "half_size", "capitals"}


@pytest.mark.parametrize("box", ["smoothed", "official"])
@pytest.mark.parametrize("name", ["steady", "motion_jpeg", "matroska", "half_size"])
def test_the_face_is_in_the_middle(root: pathlib.Path, name: str, box: str) -> None:
    crops = _read(root, name, box=box)
    assert crops.shape == (FRAMES, 44, 44, 3)
    # The square is about as large as the face, so a pixel of the crop is one of the frame. At the ends the smoothed
    # square lags by up to 28 / 15 of a pixel.
    np.testing.assert_allclose(_noses(crops), 22, atol=3 if box == "smoothed" else 2)


def test_each_crop_is_of_its_own_frame(root: pathlib.Path) -> None:
    crops = _read(root, "steady", box="official", resolution=43)
    frames = list(open_video(root / "train" / "original" / "steady.avi").frames)
    # The face of frame t is about (60 + t, 60), 32 wide and 44 high: rows 38 to 81 without the last one, and as many
    # columns, starting at 38 + t.
    for t in (0, 9, 23):
        distances = []
        for frame in frames:
            expected = frame[38:81, 38 + t : 81 + t].astype(float)
            distances.append(np.abs(crops[t] - expected).mean())
        assert int(np.argmin(distances)) == t and distances[t] < 8


def test_frames_without_a_mask(root: pathlib.Path) -> None:
    crops = _read(root, "gaps")
    assert len(crops) == FRAMES
    np.testing.assert_allclose(_noses(crops), 22, atol=3)
    noses = _noses(_read(root, "gaps", box="official"))[:, 0]
    # The face moves by a pixel per frame while the square of frame 8, then that of 13, stays.
    np.testing.assert_allclose(noses[9:13] - noses[8], [1, 2, -2, -1], atol=1)
    assert noses[0] - noses[1] == pytest.approx(-1, abs=1) and noses[23] - noses[22] == pytest.approx(1, abs=1)


@pytest.mark.parametrize("box", ["smoothed", "official"])
def test_a_face_at_the_border_is_shown_without_made_up_pixels(root: pathlib.Path, box: str) -> None:
    crops = _read(root, "border", box=box)
    # For the face at (8, 115), the frame contains columns 0 to 24 and rows 93 to 120: the square around it, of side 27
    # or 28, would start at -2. The nose is visible from 110 on, centred at (8, 114.7).
    x, y = faces.find_nose(crops[0])
    assert x == pytest.approx(8 * 44 / 28, abs=1.5) and y == pytest.approx((114.7 - 92) * 44 / 28, abs=1.5)
    differences = np.abs(np.diff(crops[0].astype(int), axis=1)).sum(axis=(0, 2))
    assert differences.min() > 0  # no column repeats its neighbour


def test_smoothed_jitters_less_than_official(tmp_path: pathlib.Path) -> None:
    random = np.random.default_rng(0)
    path = [(80.0, 60.0)] * 60
    edges = np.array(faces.face_box(80, 60, RADIUS)) + random.normal(0, 2, (60, 4))
    _write(tmp_path / "train", "noisy", path, masks=[faces.draw_mask(box) for box in edges])
    (tmp_path / "val").mkdir()
    spread = {}
    for box in ("smoothed", "official"):
        noses = _noses(_read(tmp_path, "noisy", box=box, resolution=88))
        spread[box] = np.abs(np.diff(noses, axis=0)).mean()
    assert spread["smoothed"] < 0.4 * spread["official"]
    # The whole face is visible, at least at the side of the largest box: 44 plus some of 2 * 2.
    crops = _read(tmp_path, "noisy", resolution=88)
    width = (np.abs(crops[:, 30].astype(int) - faces.SKIN).sum(axis=-1) < 60).sum(axis=-1)
    assert (width < 88 * 32 / 44).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_face", "mask video: there is no face in any of its frames"),
        ("short_mask", "it has 24 frames, but its mask video has 21"),
        ("other_shape", "its frames have 160x120 pixels, those of its mask video 120x120: different aspect ratios"),
    ],
)
def test_videos_that_cannot_be_used(root: pathlib.Path, name: str, reason: str) -> None:
    with pytest.raises(VideoError, match=re.escape(reason)):
        _read(root, name)


def test_a_broken_mask_video_is_named(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "train", "a")
    (tmp_path / "train" / "mask" / "a.avi").write_bytes(b"no video")
    with pytest.raises(VideoError, match="mask video: it cannot be opened"):
        _read(tmp_path, "a")


def _inverted(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Converts masks to the convention of FaceForensics++: white inside the face, else black."""
    return [
        np.where((mask == 255).all(axis=-1, keepdims=True), 0, 255).astype(np.uint8).repeat(3, -1) for mask in masks
    ]


@pytest.mark.parametrize("box", ["smoothed", "official"])
def test_both_kinds_of_masks_show_the_same_faces(root: pathlib.Path, tmp_path: pathlib.Path, box: str) -> None:
    empty = (0, 9, 10, 11, 12, 23)
    _write(tmp_path / "train", "gaps", masks=_inverted(_masks(empty=empty)))
    crops = _read(tmp_path, "gaps", box=box, mask_kind="faceforensics++")
    np.testing.assert_allclose(_noses(crops), _noses(_read(root, "gaps", box=box)), atol=1)


@pytest.mark.parametrize("box", ["smoothed", "official"])
def test_masks_of_the_other_kind_are_refused(tmp_path: pathlib.Path, box: str) -> None:
    _write(tmp_path / "train", "old", masks=_masks(empty=[3]))
    _write(tmp_path / "train", "new", masks=_inverted(_masks(empty=[3])))
    touches = "mask video: the face touches all four borders in 24 of 24 frames, as in masks of the other kind: "
    with pytest.raises(VideoError) as caught:
        _read(tmp_path, "new", box=box)
    assert str(caught.value) == f"{touches}--mask_kind=faceforensics++"
    with pytest.raises(VideoError) as caught:
        _read(tmp_path, "old", box=box, mask_kind="faceforensics++")
    assert str(caught.value) == f"{touches}--mask_kind=faceforensics"


def test_a_face_that_fills_the_frame_now_and_then_is_no_reason(tmp_path: pathlib.Path) -> None:
    masks = _masks()
    masks[5:8] = [np.full_like(masks[0], faces.MASK)] * 3
    _write(tmp_path / "train", "close", masks=masks)
    assert len(_read(tmp_path, "close")) == FRAMES


def test_masks_of_the_other_kind_end_before_any_work(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "train", "00", masks=_inverted(_masks()))
    for number in range(1, 12):
        for part in ("original", "mask"):
            (tmp_path / "train" / part / f"{number:02d}.avi").symlink_to(tmp_path / "train" / part / "00.avi")
    result = _command(tmp_path, tmp_path / "data", "--num_workers=1")
    assert result.returncode == 1 and not list((tmp_path / "data").glob("*.tfrecord"))
    assert re.fullmatch(
        r"faceforensics: 12 of the first 12 videos cannot be used, more than --max_failures=10, e\.g\. "
        r"\d\d: mask video: the face touches all four borders in 24 of 24 .*--mask_kind=faceforensics\+\+\n",
        result.stderr,
    )
    result = _command(tmp_path, tmp_path / "data", "--num_workers=1", "--mask_kind=faceforensics++")
    assert result.returncode == 0, result.stderr
    assert Manifest.load(tmp_path / "data").options["mask_kind"] == "faceforensics++"


def test_lengths_may_differ_by_two(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert len(_read(root, "one_mask_less")) == FRAMES - 1
    _write(tmp_path / "train", "more", masks=[*_masks(), *_masks()[-2:]])
    assert len(_read(tmp_path, "more")) == FRAMES


def test_a_damaged_mask_video_is_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    original, mask = (root / "train" / part / "steady.avi" for part in ("original", "mask"))
    content = mask.read_bytes()
    (tmp_path / "mask.avi").write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(VideoError, match=r"^mask video: damaged: \d+ frames"):
        readers.read_masked_face(Video("a", str(original), mask=str(tmp_path / "mask.avi")), "smoothed", 0.0, 16)


def test_faces_and_masks_are_resampled_together(root: pathlib.Path) -> None:
    original, mask = (str(root / "train" / part / "steady.avi") for part in ("original", "mask"))
    whole, half = (
        list(readers.read_masked_face(Video("a", original, mask=mask), "official", 0.0, 16, fps).frames)
        for fps in (30, 15)
    )
    assert len(whole) == FRAMES and len(half) == (FRAMES + 1) // 2
    np.testing.assert_array_equal(half, whole[::2])


def test_one_frame_at_a_time(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []

    def watched(path: str, fps: float = 0.0) -> Any:
        opened = open_video(path, fps)

        def each() -> Any:
            for frame in opened.frames:
                alive.append(1)
                yield frame

        return opened._replace(frames=each())

    monkeypatch.setattr(readers, "open_video", watched)
    original, mask = (str(root / "train" / part / "steady.avi") for part in ("original", "mask"))
    frames = readers.read_masked_face(Video("steady", original, mask=mask), "smoothed", 0.0, 16).frames
    assert len(alive) == FRAMES  # the masks; none of the video's own frames yet
    next(frames)
    assert len(alive) == FRAMES + 1


def test_missing_halves_and_wrong_input(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data_set = faceforensics.data_set(_options(root))
    assert data_set.missing == ["mask/no_mask"]
    assert {video.id for video in data_set.videos} == GOOD | {"no_face", "short_mask", "other_shape"}
    assert (data_set.labels, data_set.height, data_set.width) == ([], 48, 48)
    (root / "train" / "original" / "list.txt").rename(root / "train" / "mask" / "lost.mp4")
    try:
        assert faceforensics.data_set(_options(root)).missing == ["mask/no_mask", "original/lost"]
    finally:
        (root / "train" / "mask" / "lost.mp4").rename(root / "train" / "original" / "list.txt")

    def error(root: pathlib.Path, split: str = "train") -> str:
        with pytest.raises(UserError) as caught:
            faceforensics.data_set(_options(root, split=split))
        return str(caught.value)

    folder = tmp_path / "train"
    assert error(root, "val") == (
        f"--root: no folder {root / 'val' / 'original'}; name the folder that holds train, val and test"
    )
    (folder / "original").mkdir(parents=True)
    assert error(tmp_path) == f"--root: no videos in {folder / 'original'}"
    (folder / "original" / "a.avi").touch()
    assert "no folder" in error(tmp_path) and str(folder / "mask") in error(tmp_path)
    (folder / "original" / "a.mp4").touch()
    assert "two videos have the same name" in error(tmp_path)
    for changes in ({"resolution": 0}, {"face_margin": -0.1}, {"root": ""}):
        with pytest.raises(ConfigError, match=f"--{next(iter(changes))}="):
            FaceForensicsOptions(**{"root": "somewhere", **changes})  # type: ignore[arg-type]


def _command(root: pathlib.Path, output_dir: pathlib.Path, *more: str, true: bool = False) -> Any:
    size = ["--resolution=32", "--min_frames=8", "--encoding=png"]
    arguments = ["data_prep.faceforensics", f"--root={root}", f"--output_dir={output_dir}", *size, *more]
    return run_command(*arguments) if true else fork_command("tests.quickly", *arguments)


def test_command_gives_the_same_bytes_with_one_and_two_workers(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for workers in (1, 2):
        result = _command(root, tmp_path / f"{workers}", f"--num_workers={workers}", true=workers == 2)
        assert result.returncode == 0, result.stderr
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / f"{workers}").iterdir()} for workers in (1, 2))
    assert one == two
    lines = result.stdout.splitlines()
    assert lines[0] == "4 of 12 videos are skipped:"
    assert "  mask/no_mask: the file is missing" in lines
    assert "  no_face: mask video: there is no face in any of its frames" in lines
    assert "8 videos, 191 frames of 32x32, 1 shards" in lines[-1] and lines[-1].endswith("4 skipped")
    manifest = Manifest.load(tmp_path / "2")
    assert (manifest.num_videos, manifest.num_frames) == (8, 8 * FRAMES - 1)
    assert manifest.options["box"] == "smoothed" and manifest.options["resolution"] == 32
    found = {}
    for record in tf.data.TFRecordDataset(manifest.shard_paths(tmp_path / "2")).map(records.parse_record):
        found[record["video_id"].numpy().decode()] = record
        assert int(record["label"]) == records.NO_LABEL and float(record["fps"]) == pytest.approx(30)
    assert found.keys() == GOOD
    stored = np.stack([tf.io.decode_png(frame).numpy() for frame in found["gaps"]["frames"].numpy()])
    np.testing.assert_array_equal(stored, _read(root, "gaps", resolution=32))

    result = _command(root, tmp_path / "2", "--box=official")
    assert result.returncode == 1
    assert "was made with --box=smoothed (now official); choose another folder" in result.stderr


def test_command_with_wrong_input_ends_in_one_line(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for arguments, code, line in [
        (["--root=/nowhere"], 1, "faceforensics: --root: no folder /nowhere/train/original; name the folder that"),
        ([f"--root={root}", "--split=all"], 2, "faceforensics: flag --split=all: value should be one of"),
        (
            [f"--root={root}", "--max_failures=0"],
            1,
            "faceforensics: 1 of 12 videos are missing, e.g. mask/no_mask; check",
        ),
        ([], 2, "faceforensics: --root is missing"),
    ]:
        result = fork_command("data_prep.faceforensics", *arguments, f"--output_dir={tmp_path / 'data'}")
        assert (result.returncode, result.stdout) == (code, "")
        assert result.stderr.count("\n") == 1 and result.stderr.startswith(line), result.stderr
        assert not (tmp_path / "data").exists()


@pytest.mark.skipif(not FACE_VIDEO.is_file(), reason="needs the video of a face in ../shared/data/videos")
def test_a_real_face(tmp_path: pathlib.Path) -> None:
    frames = list(open_video(FACE_VIDEO).frames)[:60]
    boxes = face_boxes.interpolated(face_boxes.detect_boxes(frames))
    masks = []
    for frame, (left, top, right, bottom) in zip(frames, boxes.round().astype(int)):
        mask = np.full_like(frame, 255)
        mask[top:bottom, left:right] = faces.MASK
        masks.append(mask)
    faces.write_lossy(tmp_path / "train" / "original" / "a.avi", frames)
    faces.write_lossy(tmp_path / "train" / "mask" / "a.avi", masks)
    for box in ("smoothed", "official"):
        crops = _read(tmp_path, "a", box=box, face_margin=0.3, resolution=96)
        found = [face_boxes.find_faces(crop) for crop in crops[::6]]
        # The detector finds the face at the centre of the crop.
        centres = np.array([(each[0, :2] + each[0, 2:]) / 2 for each in found if len(each)])
        assert len(centres) >= 9
        np.testing.assert_allclose(centres, 48, atol=10)
