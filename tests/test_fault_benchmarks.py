"""Fault injection of the benchmarks: it damages what it should, reproducibly."""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.stress import crash_preparation, fuzz
from tests.data_sets import write_data_set
from tganv2_tf.data import checks
from tganv2_tf.errors import ConfigError, UserError

CONTENT = bytes(range(256)) * 20


def test_mutations_change_files_and_depend_on_the_seed_alone() -> None:
    mutated = [fuzz.mutate(CONTENT, random.Random(seed)) for seed in range(200)]
    assert CONTENT not in mutated and len(set(mutated)) > 190
    assert mutated == [fuzz.mutate(CONTENT, random.Random(seed)) for seed in range(200)]
    lengths = np.array([len(content) for content in mutated])
    assert (lengths < len(CONTENT)).any() and (lengths > len(CONTENT)).any() and (lengths == len(CONTENT)).any()
    for name, mutation in fuzz.MUTATIONS.items():
        data = bytearray(CONTENT)
        mutation(data, random.Random(1))
        assert data != CONTENT, name
    assert fuzz.mutate(b"x", random.Random(0)) != b"x"


def test_manifests_get_other_values(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path, [4, 4])
    content = (tmp_path / "manifest.json").read_bytes()
    changed = [json.loads(fuzz._other_value(content, random.Random(seed))) for seed in range(100)]
    assert sum(each != json.loads(content) for each in changed) > 90
    assert len({json.dumps(each) for each in changed}) > 50


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Bench:
    """One shard of two videos."""
    folder = tmp_path_factory.mktemp("bench") / "intact"
    size = fuzz.RESOLUTION
    write_data_set(folder, [5] * 2, height=size, width=size, num_shards=1)
    return fuzz.Bench(str(folder))


@pytest.mark.slow
def test_fuzzing_sees_what_is_wrong(bench: fuzz.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    task = fuzz.Task(str(bench.intact), (1,), False, 0)  # group 1 is not resealed

    def found() -> fuzz.Counts:
        return bench.check_shards(task, lambda step: None)

    counts = found()
    assert (counts.reported, counts.wrong) == (1, [])
    with monkeypatch.context() as patch:
        patch.setattr(fuzz.verify, "main", lambda options: 0)
        patch.setattr(checks, "load_manifest", lambda *_: 1 / 0)
        patch.setattr(fuzz, "_clips", lambda dataset: iter([b"not a clip"]))
        wrong = found().wrong
    for fault in ("verify does not report it", "training stops: ZeroDivisionError", "yields a different clip at 0"):
        assert sum(fault in line for line in wrong) == 1, wrong


def test_fuzzing_sees_refusals_of_more_than_a_line() -> None:
    def refuse() -> None:
        raise UserError("one line")

    def break_down() -> None:
        raise tf.errors.DataLossError(None, None, "of TensorFlow")

    assert fuzz._refusal(refuse) == "one line" and fuzz._refusal(lambda: None) == ""
    assert fuzz._refusal(break_down).startswith("Traceback")


def test_power_cuts_spare_what_is_finished(tmp_path: pathlib.Path) -> None:
    work = tmp_path / ".unfinished"
    work.mkdir()
    files = [tmp_path / "a.tfrecord", work / "plan.json", work / "lock"]
    said = []
    for seed in range(40):
        for file in files:
            file.write_bytes(CONTENT)
        said += crash_preparation.power_cut(tmp_path, random.Random(seed))
        assert files[2].read_bytes() == CONTENT
    assert {line.split(" ", 1)[1] for line in said} == set(crash_preparation.DAMAGES)
    files[0].write_bytes(CONTENT)
    (tmp_path / "manifest.json").write_text("{}")
    assert crash_preparation.power_cut(tmp_path, random.Random(0)) == []
    before = crash_preparation.contents(tmp_path)
    (work / "new").touch()
    after = crash_preparation.contents(tmp_path)
    assert {**before, ".unfinished/new": after[".unfinished/new"]} == after
    files[0].write_bytes(CONTENT[::-1])
    assert crash_preparation.contents(tmp_path)["a.tfrecord"] != before["a.tfrecord"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_outlives_a_kill_is_told(tmp_path: pathlib.Path) -> None:
    code = "import os, time\nif os.fork(): time.sleep(60)\ntime.sleep(1.0)"
    attempt = crash_preparation.Attempt([sys.executable, "-c", code], tmp_path)
    time.sleep(0.3)
    attempt.kill("main process", random.Random(0))
    begun = time.monotonic()
    assert attempt.end() == [] and time.monotonic() - begun > 0.2  # it waited for the child
    attempt = crash_preparation.Attempt([sys.executable, "-c", "1 / 0"], tmp_path)
    (fault,) = attempt.end()
    assert fault.startswith("status 1: ") and "ZeroDivisionError" in fault


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: fuzz.Command(mutations=1), "--mutations=1"),
        (lambda: fuzz.Command(seed=-1), "--seed=-1"),
        (lambda: crash_preparation.Command(kills=0), "--kills=0"),
    ],
)
def test_wrong_options(make: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make()
