"""Verification: an intact data set passes, and each kind of damage is reported."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf

from data_prep import verify
from tests.conftest import ROOT, run_command
from tests.data_sets import encode_frame, flip_byte, read_records, rewrite
from tests.forking import fork_command
from tganv2_tf.data.manifest import Manifest, Shard, Skipped, checksum, shard_name
from tganv2_tf.data.records import encode_record, segment_id
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.video_io.captions import captioned

HEIGHT, WIDTH = 8, 12
CAPTIONED = captioned(np.zeros((1, 1, HEIGHT, 3 * WIDTH, 3), np.uint8), [""]).shape[2]  # height of a tile of the sheet
LABELS = ["Archery", "YoYo"]
FILES = [shard_name("made_up", "train", index, 6) for index in range(6)]


def _frame(video: int, t: int, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """Every pixel of frame t of a video is (10 * video, t, 0)."""
    return encode_frame(np.full((height, width, 3), (10 * video, t, 0), np.uint8))


def _record(video: int, num_frames: int = 20, segment: int = 0, first: int = 0, **changes: Any) -> bytes:
    video_id = segment_id(f"v{video}", segment) if segment else f"v{video}"
    label = {"label": video % 2, "label_name": LABELS[video % 2]}
    fields = {"video_id": video_id, "height": HEIGHT, "width": WIDTH, "fps": 10.0, **label, **changes}
    return encode_record([_frame(video, first + t) for t in range(num_frames)], **fields)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Six shards of two videos with 20 frames at 10 per second; v0 has 40 frames, v11 has 50 in two segments."""
    folder = tmp_path / "data"
    folder.mkdir()
    shards = []
    for index, file in enumerate(FILES):
        records = [_record(2 * index), _record(2 * index + 1)]
        if index == 0:
            records[0] = _record(0, 40)
        if index == 5:  # with --min_frames=11 segments share ten frames: 0..29, 20..49
            records[1:] = [_record(11, 30, segment=1), _record(11, 30, segment=2, first=20)]
        with tf.io.TFRecordWriter(str(folder / file)) as writer:
            for record in records:
                writer.write(record)
        num_frames = {0: 60, 5: 80}.get(index, 40)
        size = (folder / file).stat().st_size
        shards.append(Shard(file, size, checksum(folder / file), 2, len(records), num_frames))
    skipped = [Skipped("v99", "the file is missing")]
    Manifest("made_up", "train", HEIGHT, WIDTH, LABELS, {"min_frames": 11}, shards, skipped).save(folder)
    return folder


def _faults(folder: pathlib.Path, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    """Returns the reported faults of a damaged data set, without a separate process."""
    with pytest.raises(UserError) as caught:
        verify.main(verify.VerifyOptions(str(folder), **options))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("made_up-")]
    assert str(caught.value).startswith(f"{folder}: {len(lines)} faults; copy the data set again")
    return lines


def test_command_on_a_sound_data_set(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (folder / "other.tfrecord").write_bytes(b"")
    png = tmp_path / "sheet.png"
    result = run_command("data_prep.verify", f"--data_dir={folder}", f"--contact_sheet={png}")
    assert result.returncode == 0, result.stderr
    assert "13/13" in result.stderr, "progress over all records"
    lines = result.stdout.splitlines()
    assert [re.split(r"  +", line) for line in lines[:5]] == [
        ["note: other.tfrecord is not in manifest.json and is never read"],
        ["class", "videos", "frames", "seconds: min", "median", "max"],
        # The even ones: 40 frames and five times 20; the odd ones: five times 20, and 50 of which ten are duplicates.
        ["Archery", "6", "140", "2.00", "2.00", "4.00"],
        ["YoYo", "6", "160", "2.00", "2.00", "5.00"],
        ["all", "12", "300", "2.00", "2.00", "5.00"],
    ]
    assert lines[5].startswith(f"2 classes, {WIDTH}x{HEIGHT} pixels, 6 shards, 13 records, ")
    assert lines[5].endswith(" 1 videos skipped during preparation")
    assert lines[6:] == [f"{png}: first, middle and last frame of 13 videos", f"{folder}: no faults"]

    # Thirteen records in four columns of three frames and a caption, with two black pixels between the videos.
    sheet = iio.imread(png)
    assert sheet.shape == (4 * (CAPTIONED + 2) - 2, 4 * (3 * WIDTH + 2) - 2, 3)
    corners = [(row * (CAPTIONED + 2), column * (3 * WIDTH + 2)) for row in range(4) for column in range(4)][:13]
    captions = [sheet[top + HEIGHT : top + CAPTIONED, left : left + 3 * WIDTH] for top, left in corners]
    texts = ["v0 (Archery)", "v11#0002 (YoYo)"]
    expected = captioned(np.zeros((2, 1, HEIGHT, 3 * WIDTH, 3), np.uint8), texts)[:, 0, HEIGHT:]
    np.testing.assert_array_equal([captions[0], captions[12]], expected)
    tiles = [sheet[top : top + HEIGHT, left : left + 3 * WIDTH : WIDTH] for top, left in corners]
    assert [tile[0, :, 1].tolist() for tile in tiles] == [[0, 20, 39], *[[0, 10, 19]] * 10, [0, 15, 29], [20, 35, 49]]
    assert [tile[0, 0, 0] // 10 for tile in tiles] == [*range(12), 11]


def test_the_seed_chooses_what_is_on_the_sheet(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SHEET_VIDEOS", 3)
    sheets = [folder.parent / f"{name}.png" for name in "abc"]
    for sheet, seed in zip(sheets, (1, 1, 2)):
        assert verify.main(verify.VerifyOptions(str(folder), contact_sheet=str(sheet), seed=seed)) == 0
        assert iio.imread(sheet).shape == (CAPTIONED, 3 * (3 * WIDTH + 2) - 2, 3)
    assert sheets[0].read_bytes() == sheets[1].read_bytes() != sheets[2].read_bytes()


def test_command_lists_every_fault_and_goes_on(folder: pathlib.Path) -> None:
    flip_byte(folder / FILES[0], record=1)
    (folder / FILES[1]).write_bytes((folder / FILES[1]).read_bytes()[:-3])
    (folder / FILES[2]).unlink()
    (folder / FILES[3]).write_bytes(b"")
    sizes = [(folder / file).stat().st_size for file in FILES[:2]]
    result = fork_command("data_prep.verify", f"--data_dir={folder}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    manifest = Manifest.read(folder)
    found = [line for line in result.stdout.splitlines() if line.startswith("made_up-")]
    lost = "; the rest of the file cannot be read"
    for line, pattern in zip(
        found,
        [
            f"{FILES[0]}: its checksum differs from manifest.json: its contents have changed",
            rf"{FILES[0]}: record 1: corrupted record at \d+{lost}",
            rf"{FILES[1]}: {sizes[1]} bytes, but manifest.json says {sizes[1] + 3}: damaged",
            rf"{FILES[1]}: record 1: truncated record at \d+.*{lost}",
            f"{FILES[2]}: No such file or directory, but manifest.json lists it",
            f"{FILES[3]}: 0 bytes, but manifest.json says {manifest.shards[3].bytes}: damaged",
            f"{FILES[3]}: num_videos is 0, but manifest.json says 2",
            f"{FILES[3]}: num_records is 0, but manifest.json says 2",
            f"{FILES[3]}: num_frames is 0, but manifest.json says 40",
        ],
    ):
        assert re.fullmatch(pattern, line)
    assert len(found) == 9
    assert result.stderr.splitlines()[-1].startswith(f"verify: {folder}: 9 faults; copy the data set again, or prepare")
    assert re.search(r"^all +6 ", result.stdout, re.MULTILINE), "of twelve videos those that could be read"


def _replace(index: int, record: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda records: [*records[:index], record, *records[index + 1 :]]


LOST_FRAME = _record(8, 20)  # frame 13 is not an image
PARTS = tf.train.SequenceExample.FromString(LOST_FRAME)
PARTS.feature_lists.feature_list["frames"].feature[13].bytes_list.value[0] = b"x"
NO_TEXT = tf.train.SequenceExample.FromString(_record(8, 20))
for name in ("video_id", "label_name"):
    NO_TEXT.context.feature[name].bytes_list.value[0] = b"\xff"
SAYS_21 = tf.train.SequenceExample.FromString(_record(8, 20))
SAYS_21.context.feature["num_frames"].int64_list.value[0] = 21


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (_replace(0, b"not a record"), ["record 0: not a video record: "]),
        (_replace(0, PARTS.SerializeToString()), ["record 0: frame 13 cannot be decoded: Unknown image file format"]),
        (_replace(0, NO_TEXT.SerializeToString()), ["record 0: label 0 is called '\\\\xff', but 'Archery' in"]),
        (_replace(0, SAYS_21.SerializeToString()), ["record 0: it has 20 frames, but its num_frames is 21"]),
        (_replace(1, _record(9, height=9)), ["record 1: 12x9 pixels, but manifest.json says 12x8"]),
        (_replace(1, _record(9, label=2)), ["record 1: label 2, but manifest.json has 2 labels"]),
        (_replace(1, _record(9, label=-2)), ["record 1: label -2, but manifest.json has 2 labels"]),
        (_replace(1, _record(9, label=0)), ["record 1: label 0 is called 'YoYo', but 'Archery' in manifest.json"]),
        (_replace(1, _record(9, label=-1, label_name="")), []),
        (_replace(1, _record(1)), ["record 1: duplicate video_id v1"]),
        (_replace(1, _record(9, 19)), ["num_frames is 39, but manifest.json says 40"]),
        (lambda records: records[:1], ["num_videos is 1,", "num_records is 1,", "num_frames is 20,"]),
        (
            _replace(1, encode_record([_frame(9, t, 8, 8) for t in range(20)], video_id="v9", height=8, width=12)),
            ["record 1: frame 0 has 8x8 pixels, but those of the data set have 12x8"],
        ),
    ],
)
def test_records_that_were_written_wrongly(
    folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[bytes]], list[bytes]],
    faults: list[str],
) -> None:
    rewrite(folder, FILES[4], change(read_records(folder / FILES[4])))
    if not faults:
        assert verify.main(verify.VerifyOptions(str(folder))) == 0
        return
    found = _faults(folder, capsys)
    assert len(found) == len(faults)
    assert all(line.startswith(f"{FILES[4]}: {fault}") for line, fault in zip(found, faults)), found


def test_swapped_shards_and_edited_counts(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.read(folder)
    first, second = (folder / file for file in FILES[2:4])  # of the same size
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    edited = dataclasses.replace(manifest.shards[0], num_videos=3, num_records=4, num_frames=61)
    dataclasses.replace(manifest, shards=[edited, *manifest.shards[1:]]).save(folder)
    assert _faults(folder, capsys) == [
        f"{FILES[0]}: num_videos is 2, but manifest.json says 3",
        f"{FILES[0]}: num_records is 2, but manifest.json says 4",
        f"{FILES[0]}: num_frames is 60, but manifest.json says 61",
        f"{FILES[2]}: its checksum differs from manifest.json: its contents have changed",
        f"{FILES[3]}: its checksum differs from manifest.json: its contents have changed",
    ]


def test_decoding_is_sampled_by_the_seed(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(5):
        broken = [
            encode_record([b"x"] * 20, video_id=f"v{v}", label=v % 2, label_name=LABELS[v % 2], height=8, width=12)
            for v in (2 * index, 2 * index + 1)
        ]
        rewrite(folder, FILES[index], broken)
    manifest = Manifest.read(folder)
    shards = [dataclasses.replace(shard, num_frames=40) for shard in manifest.shards[:5]]
    dataclasses.replace(manifest, shards=[*shards, manifest.shards[5]]).save(folder)
    assert verify.main(verify.VerifyOptions(str(folder), num_decoded=0)) == 0
    chosen = [_faults(folder, capsys, num_decoded=1, seed=seed) for seed in (0, 0, 1)]
    assert [len(faults) for faults in chosen] == [5, 5, 5], "one of each of five shards"
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(_faults(folder, capsys, num_decoded=9)) == 10


def test_a_damaged_record_is_not_on_the_sheet(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder, FILES[4], [b"not a record", _record(9)])
    sheet = folder.parent / "new" / "sheet.png"
    assert len(_faults(folder, capsys, contact_sheet=str(sheet))) == 1
    assert iio.imread(sheet).shape == (3 * (CAPTIONED + 2) - 2, 4 * (3 * WIDTH + 2) - 2, 3), "of twelve records"
    assert [path.name for path in sheet.parent.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ([], 2, "verify: --data_dir is missing: folder of the shards"),
        (["--data_dir=/nowhere"], 1, "verify: /nowhere: no such folder; `python -m tganv2_tf` lists"),
        (["--data_dir=x", "--num_decoded=-1"], 2, "verify: --num_decoded=-1: valid: a whole number of at least 0"),
        (
            ["--data_dir=x", "--contact_sheet=a.gif"],
            2,
            "verify: --contact_sheet=a.gif: valid: a name that ends in .png",
        ),
        (["--data=x"], 2, "verify: --data: no such flag; did you mean --data_dir?"),
    ],
)
def test_wrong_commands_end_in_one_line(arguments: list[str], status: int, line: str) -> None:
    result = fork_command("data_prep.verify", *arguments)
    assert result.returncode == status and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(line)


def test_what_is_no_data_set(folder: pathlib.Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest\.json in it, so not a data set"):
        verify.main(verify.VerifyOptions(str(folder)))
    (folder / ".unfinished").mkdir()
    with pytest.raises(UserError, match="its preparation is not finished; run the same"):
        verify.main(verify.VerifyOptions(str(folder)))
    with pytest.raises(ConfigError, match="--contact_sheet=a/"):
        verify.VerifyOptions(str(folder), contact_sheet="a/")


def test_help_does_not_wait_for_tensorflow() -> None:
    code = (
        "import runpy, sys; sys.argv = ['verify', '--help']\n"
        "try: runpy.run_module('data_prep.verify', run_name='__main__')\n"
        "except SystemExit as error: sys.exit(error.code or 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "--contact_sheet" in result.stdout
