"""The synthetic data set: its layout is UCF101's, and its videos show their class."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from data_prep import moving_shapes, shapes
from data_prep.moving_shapes import MovingShapesOptions
from data_prep.shapes import CLASSES
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.video_io.decoding import open_video

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _options(folder: pathlib.Path | str = "unused", **changes: Any) -> MovingShapesOptions:
    return MovingShapesOptions(**{"output_dir": str(folder), "videos_per_class": 5, "num_frames": 16, **changes})


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _shape_mask(frames: np.ndarray) -> np.ndarray:
    """Returns the pixels of the shape, bool [T, H, W]; its colours are far brighter than any background."""
    values = frames.astype(int)
    return (values.max(-1) > 120) & (values.max(-1) - values.min(-1) > 90)


def test_layout_is_that_of_ucf101(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "shapes"
    assert moving_shapes.main(_options(folder)) == 0
    files = _files(folder)
    # 5 videos per class: groups of 4 and 1.
    expected = {
        f"videos/{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
        for name in CLASSES
        for group, clip in [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]
    }
    lists = {f"ucfTrainTestlist/{name}.txt" for name in ("classInd", "trainlist01", "testlist01")}
    assert set(files) == expected | lists | {"moving_shapes.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert len(CLASSES) == 12 and "CircleLeft" in CLASSES
    assert files["ucfTrainTestlist/classInd.txt"].startswith(b"1 CircleDown\r\n2 CircleLeft\r\n")
    # Group 1 is in the test list, group 2 in the train list; only the latter has labels.
    assert files["ucfTrainTestlist/testlist01.txt"].startswith(b"CircleDown/v_CircleDown_g01_c01.avi\r\nCircleDown/v_")
    train = files["ucfTrainTestlist/trainlist01.txt"].decode()
    assert train == "".join(f"{name}/v_{name}_g02_c01.avi {label}\r\n" for label, name in enumerate(CLASSES, start=1))
    fps, decoded, _ = open_video(folder / "videos" / "SquareUp" / "v_SquareUp_g01_c02.avi")
    frames = np.stack(list(decoded))
    assert fps == 25 and frames.shape == (16, 72, 96, 3)
    drawn = moving_shapes.render("SquareUp", 1, 2, _options())
    assert np.abs(frames.astype(int) - drawn).mean() < 3  # Motion JPEG loses little


@pytest.mark.parametrize(
    ("videos_per_class", "test_fraction", "test_groups"),
    [(40, 0.2, 2), (40, 0.0, 0), (4, 0.5, 0), (5, 0.01, 1), (8, 0.99, 1)],
)
def test_whole_groups_are_tested(videos_per_class: int, test_fraction: float, test_groups: int) -> None:
    lists = moving_shapes.split_lists(_options(videos_per_class=videos_per_class, test_fraction=test_fraction))
    test, train = lists["testlist01.txt"].split(), [line.split()[0] for line in lists["trainlist01.txt"].splitlines()]
    assert len(test) == 12 * 4 * test_groups and len(test) + len(train) == 12 * videos_per_class
    assert not {path.partition("_c0")[0] for path in test} & {path.partition("_c0")[0] for path in train}
    assert train  # never empty


@pytest.mark.parametrize("name", CLASSES)
def test_shape_moves_in_its_direction(name: str) -> None:
    for group, clip in [(1, 1), (2, 3), (3, 2)]:
        # The middle 16 frames, in which the whole shape is visible; 72 pixels are the side of the centre square.
        frames = moving_shapes.render(name, group, clip, _options(num_frames=32))[8:24].astype(float)
        weights = np.clip(frames.max(-1) - frames.min(-1) - 40, 0, None)  # no background is as saturated
        total = weights.sum((1, 2))
        x = (weights * np.arange(96)).sum((1, 2)) / total
        y = (weights * np.arange(72)[:, None]).sum((1, 2)) / total
        way = np.array([x[-1] - x[0], y[-1] - y[0]]) / 72
        directions = {"Left": (-1, 0), "Right": (1, 0), "Up": (0, -1), "Down": (0, 1)}  # rows count downwards
        along = way @ next(vector for direction, vector in directions.items() if name.endswith(direction))
        assert 0.29 < along < 0.43 and np.linalg.norm(way) - along < 0.001
        steps = np.hypot(np.diff(x), np.diff(y))
        np.testing.assert_allclose(steps, 72 * along / 15, atol=0.2)  # constant speed, up to a fifth of a pixel


def test_shape_stays_mostly_in_the_centre_square() -> None:
    for name in CLASSES:
        masks = _shape_mask(moving_shapes.render(name, 1, 1, _options(num_frames=32)))
        inside = masks[:, :, 12:84].sum((1, 2))
        assert inside.min() > 0.45 * inside.max()


def test_shapes_by_their_area() -> None:
    # A square fills its bounding box, a circle pi / 4 and a triangle half of it.
    expected = {"Square": 1.0, "Circle": np.pi / 4, "Triangle": 0.5}
    for name in CLASSES:
        mask = _shape_mask(moving_shapes.render(name, 2, 1, _options(height=288, width=384)))[8]
        rows, columns = np.argwhere(mask).T
        filled = mask.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
        shape = next(shape for shape in expected if name.startswith(shape))
        assert filled == pytest.approx(expected[shape], abs=0.03)


def test_edges_are_smooth_and_motion_is_finer_than_a_pixel() -> None:
    coverage = shapes.coverage("Square", (10.0, 10.0), 5.0 / 0.9, 20, 20)  # half a side is 5 pixels
    np.testing.assert_allclose(coverage[10], [0] * 5 + [1] * 10 + [0] * 5, atol=0.26)
    assert coverage.sum() == pytest.approx(100, rel=0.09)  # slightly larger: the smooth edge extends outwards
    shifted = [shapes.coverage("Square", (10.0 + x, 10.0), 5.0 / 0.9, 20, 20) for x in (0.0, 0.1, 0.2, 0.3)]
    centres = [(c.sum(0) * np.arange(20)).sum() / c.sum() for c in shifted]
    np.testing.assert_allclose(np.diff(centres), 0.1, atol=0.03)
    circle = shapes.coverage("Circle", (10.0, 10.0), 5.0, 20, 20)
    assert circle.sum() == pytest.approx(np.pi * 25, rel=0.09)
    assert len(np.unique(circle)) > 5


def test_groups_share_their_colour_and_classes_have_many() -> None:
    def hue(group: int, clip: int) -> float:
        frames = moving_shapes.render("CircleLeft", group, clip, _options())
        red, green, blue = frames[_shape_mask(frames)].mean(0)
        return float(np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue))) % 360

    hues = np.array([[hue(group, clip) for clip in (1, 2, 3)] for group in range(1, 7)])
    distance = np.abs((hues - hues[:, :1] + 180) % 360 - 180)
    assert distance.max() < 20  # within a group
    assert np.diff(np.sort(hues[:, 0])).min() > 20  # six groups, six colours


def test_same_seed_same_bytes_other_seed_other_videos(tmp_path: pathlib.Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        moving_shapes.main(_options(tmp_path / name, videos_per_class=1, seed=seed))
    a, b, c = (_files(tmp_path / name) for name in "abc")
    assert a == b and set(a) == set(c)
    videos = [name for name in a if name.endswith(".avi")]
    assert len(videos) == 12 and all(a[name] != c[name] for name in videos)


def test_shapes_are_the_pixels_and_the_options_of_older_versions(tmp_path: pathlib.Path) -> None:
    options = _options(tmp_path / "a", num_frames=5, seed=2, videos_per_class=1)
    digest = hashlib.sha256()
    for name in CLASSES:
        for group in (1, 7):
            digest.update(moving_shapes.render(name, group, 3, options).tobytes())
    digest.update(moving_shapes.render("TriangleUp", 2, 1, _options(num_frames=32, height=40, width=31)).tobytes())
    # From the code before glyphs were added.
    assert digest.hexdigest() == "3b9f4c233e4230c5da191eca182cce9e47a26f73699bf1d2086956c3cf91c0ab"
    moving_shapes.main(options)
    made = json.loads((tmp_path / "a" / "moving_shapes.json").read_text())
    assert list(made) == ["videos_per_class", "test_fraction", "num_frames", "height", "width", "seed"]


def test_glyphs_are_digits_then_letters(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ten, twelve = (_options(content="glyphs", num_classes=number) for number in (0, 12))
    assert moving_shapes.classes(ten) == tuple(f"Digit{number}" for number in range(10))
    assert moving_shapes.classes(twelve) == (*moving_shapes.classes(ten), "LetterA", "LetterB")
    lists = moving_shapes.split_lists(twelve)
    assert lists["classInd.txt"].endswith("10 Digit9\r\n11 LetterA\r\n12 LetterB\r\n")
    for name, numbers in (("a", (0, 10)), ("b", (11,))):
        for number in numbers:
            small = _options(tmp_path / name, content="glyphs", num_classes=number, videos_per_class=1, num_frames=2)
            moving_shapes.main(small)
    made = capsys.readouterr().out.splitlines()
    assert "10 videos of 10 classes" in made[0] and "already complete" in made[1]
    a, b = (_files(tmp_path / name) for name in "ab")
    assert {name for name in b if name.endswith(".avi")} - set(a) == {"videos/LetterA/v_LetterA_g01_c01.avi"}
    assert all(a[name] == b[name] for name in a if name.endswith(".avi")), "more classes leave the others as they are"


def test_second_run_is_quick_and_other_options_render_anew(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shapes"
    options = _options(folder, videos_per_class=1)
    moving_shapes.main(options)
    before = _files(folder)
    with monkeypatch.context() as patch:
        patch.setattr(moving_shapes, "render", lambda *_: pytest.fail("rendered again"))
        assert moving_shapes.main(options) == 0
    assert "already complete" in capsys.readouterr().out
    next(folder.glob("videos/*/*.avi")).unlink()
    moving_shapes.main(options)  # incomplete
    assert _files(folder) == before
    moving_shapes.main(dataclasses.replace(options, num_frames=17))
    assert json.loads((folder / "moving_shapes.json").read_text())["num_frames"] == 17
    frames = open_video(next(folder.glob("videos/*/*.avi"))).frames
    assert len(list(frames)) == 17


def test_failures_leave_the_old_data_set_and_no_debris(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shapes"
    options = _options(folder, videos_per_class=1)
    moving_shapes.main(options)
    before = _files(folder)

    def interrupted(path: pathlib.Path, frames: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(moving_shapes, "write_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        moving_shapes.main(dataclasses.replace(options, seed=9))
    assert _files(folder) == before and [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_foreign_folders_are_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="already exists with other contents"):
            moving_shapes.main(_options(target))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_video_cut_by_a_full_disk_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    path, frames = tmp_path / "a.avi", moving_shapes.render("CircleUp", 1, 1, _options())
    moving_shapes.write_video(path, frames)
    cut = path.read_bytes()[:-100]

    class CutWriter:  # like OpenCV's writer, it does not report a full disk
        def __init__(self, *_: Any) -> None:
            path.write_bytes(cut if whole else b"")

        isOpened = set = write = release = lambda self, *_: True

    monkeypatch.setattr(moving_shapes.cv2, "VideoWriter", type("W", (CutWriter,), {"fourcc": lambda *_: 0}))
    with pytest.raises(UserError, match="not completely written; is the disk full"):
        moving_shapes.write_video(path, frames)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"videos_per_class": 0}, "--videos_per_class=0: valid: a whole number of at least 1"),
        ({"test_fraction": 1.0}, "--test_fraction=1.0"),
        ({"num_frames": 1}, "--num_frames=1"),
        ({"height": 8}, "--height=8: valid: 16 to 4096"),
        ({"seed": -1}, "--seed=-1"),
        ({"num_classes": 10}, "--num_classes=10: valid: 0 with --content=shapes, which always has 12 classes"),
        ({"content": "glyphs", "num_classes": 35}, "--num_classes=35: valid: 0, or 2 to 34"),
        ({"content": "glyphs", "num_classes": 1}, "--num_classes=1: valid: 0, or 2 to 34"),
    ],
)
def test_options_that_cannot_work(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _options(**changes)
    assert named in str(caught.value)


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_prep.moving_shapes", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_command(tmp_path: pathlib.Path) -> None:
    result = _command(f"--output_dir={tmp_path / 'a'}", "--videos_per_class=1")
    assert result.returncode == 0 and "12 videos of 12 classes" in result.stdout
    result = _command(f"--output_dir={tmp_path / 'a'}", "--videos_per_class=none")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "--videos_per_class" in result.stderr
    result = _command()
    assert result.returncode == 2 and result.stderr.startswith("moving_shapes: --output_dir is missing")
    result = _command(f"--output_dir={ROOT}")
    assert (
        result.returncode == 1
        and result.stderr.count("\n") == 1
        and "already exists with other contents" in result.stderr
    )
