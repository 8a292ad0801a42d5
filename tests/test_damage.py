"""A changed byte anywhere in a shard, and truncated or extended files: verification and training, with and without
skipping.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from data_prep import verify
from tests.conftest import tiny_config
from tests.data_sets import read_records, write_data_set
from tganv2_tf.data import pipeline
from tganv2_tf.data.checks import load_manifest
from tganv2_tf.data.damage import cause_of_error
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError

RECORDS = 3  # per shard
HEADER, FOOTER = 12, 4  # of a record's framing: length with its checksum, and the checksum of the record


def _starts(path: pathlib.Path) -> list[int]:
    """Returns the offsets of the records of a shard, and its length."""
    ends = np.cumsum([HEADER + len(record) + FOOTER for record in read_records(path)])
    return [0, *map(int, ends)]


def _flip(place: Callable[[list[int]], int]) -> Callable[[pathlib.Path], None]:
    def flip(path: pathlib.Path) -> None:
        content = bytearray(path.read_bytes())
        content[place(_starts(path))] ^= 0x10
        path.write_bytes(content)

    return flip


def _grow(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def _cut(place: Callable[[list[int]], int]) -> Callable[[pathlib.Path], None]:
    return lambda path: os.truncate(path, place(_starts(path)))


# Damages a shard; the number is that of the first unreadable record.
DAMAGE: dict[str, tuple[Callable[[pathlib.Path], None], int]] = {
    "first byte": (_flip(lambda starts: 0), 0),
    "last byte": (_flip(lambda starts: starts[3] - 1), 2),
    "high byte of a length": (_flip(lambda starts: starts[1] + 7), 1),
    "checksum of a length": (_flip(lambda starts: starts[1] + 8), 1),
    "middle of a record": (_flip(lambda starts: (starts[1] + starts[2]) // 2), 1),
    "checksum of a record": (_flip(lambda starts: starts[2] - FOOTER), 1),
    "cut off between two records": (_cut(lambda starts: starts[2]), 2),
    "more bytes at the end": (_grow, RECORDS),
}
STOPPED_BY = ("high byte of a length", "checksum of a length", "middle of a record", "cut off between two records")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Manifest]:
    """One shard per kind of damage, with the original manifest; video i is record i // 8 of shard i % 8."""
    folder = tmp_path_factory.mktemp("data")
    manifest = write_data_set(folder, [4] * RECORDS * len(DAMAGE), num_shards=len(DAMAGE))
    for shard, (damage, _) in zip(manifest.shards, DAMAGE.values()):
        damage(folder / shard.file)
    return folder, manifest


def _videos(folder: pathlib.Path, manifest: Manifest, batches: int, skip: bool) -> list[int]:
    """Returns the numbers of the videos that training receives, in batches of four."""
    config = tiny_config(
        data={"data_dir": str(folder), "flip": False, "shuffle_buffer": 1, "skip_corrupt_records": skip}
    )
    dataset = pipeline.training_dataset(manifest, config.model, config.data, 4, 1, 0).take(batches)
    pixels = [batch[0][0][0, :, 0, 0, 0, 0] for batch in dataset]
    return [int(red) for batch in pixels for red in np.rint((batch + 1) * 127.5)]


def test_verify_finds_every_byte(damaged: tuple[pathlib.Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    folder, manifest = damaged
    with pytest.raises(UserError, match="faults; copy the data set again"):
        verify.main(verify.VerifyOptions(str(folder)))
    lines = capsys.readouterr().out.splitlines()
    for shard, (kind, (_, record)) in zip(manifest.shards, DAMAGE.items()):
        faults = [line.removeprefix(f"{shard.file}: ") for line in lines if line.startswith(f"{shard.file}: ")]
        size_changed = kind.startswith(("cut", "more"))
        assert ("but manifest.json says" if size_changed else "its checksum differs") in faults[0], kind
        if kind.startswith("cut"):
            assert f"num_records is {record}, but manifest.json says {RECORDS}" in faults, kind
        elif kind.startswith("more"):
            assert len(faults) == 1, "the records are sound"
        else:
            assert any(fault.startswith(f"record {record}: ") for fault in faults), (kind, faults)


@pytest.mark.parametrize("kind", STOPPED_BY)
def test_training_stops_at_it_by_name(damaged: tuple[pathlib.Path, Manifest], kind: str) -> None:
    folder, manifest = damaged
    index, record = list(DAMAGE).index(kind), DAMAGE[kind][1]
    alone = dataclasses.replace(manifest, shards=[manifest.shards[index]])
    with pytest.raises(tf.errors.OpError) as caught:
        _videos(folder, alone, 3, skip=False)
    line = cause_of_error(caught.value, alone, tiny_config(data={"data_dir": str(folder)}).data)
    assert line is not None and line.startswith(f"{folder / alone.shards[0].file}: record {record} "), line
    assert line.endswith("or skip such records with --skip_corrupt_records")


def test_other_sizes_stop_training_before_it_begins(damaged: tuple[pathlib.Path, Manifest]) -> None:
    folder, manifest = damaged
    for shard, kind in zip(manifest.shards, DAMAGE):
        changed = kind.startswith(("cut", "more"))
        assert (shard.fault(folder) is not None) == changed
    config = tiny_config(data={"data_dir": str(folder)})
    with pytest.raises(UserError, match=r"bytes, but manifest\.json says \d+: damaged; copy the data set again"):
        load_manifest(config.model, config.data)


def test_training_that_skips_gets_all_that_is_sound_and_counts_the_rest(
    damaged: tuple[pathlib.Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = damaged
    logged: list[tuple[Any, ...]] = []

    def warning(text: str, *words: Any) -> None:
        if "; skipped. " in text:
            logged.append(words)

    monkeypatch.setattr(logging, "warning", warning)
    seen = _videos(folder, manifest, 15, skip=True)
    lost = [(index, record) for index, (_, first) in enumerate(DAMAGE.values()) for record in range(first, RECORDS)]
    sound = {record * len(DAMAGE) + index for index in range(len(DAMAGE)) for record in range(RECORDS)}
    assert set(seen) == {10 * video for video in sound - {r * len(DAMAGE) + i for i, r in lost}}
    named = {(pathlib.Path(path).name, int(record)) for path, record, _, _ in logged}
    assert named == {(manifest.shards[index].file, record) for index, record in lost}
    assert sorted(count for *_, count in logged) == list(range(1, len(lost) + 1))
