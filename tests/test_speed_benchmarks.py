"""The benchmarks of preparation, input pipeline, evaluation and start: their rows, at tiny sizes, but for the times."""

from __future__ import annotations

import json
import pathlib

import pytest

from benchmarks import evaluation, input_pipeline
from benchmarks.rows import Row, compared, report
from tests.data_sets import write_data_set


def test_ratios_are_of_rounds_and_say_how_many_times_better_ours_is() -> None:
    # Rounds of 1 and 4, 2 and 2, 2 and 6 seconds: 4, 1 and 3 times better.
    row = compared("x", "s", [1, 2, 2], [4, 2, 6], less_is_better=True)
    assert row == Row("x", "s", 2, 4, 3, 1, 4)
    row = compared("x", "clips/s", [8, 6], [2, 3], less_is_better=False)
    assert row == Row("x", "clips/s", 7, 2.5, 3, 2, 4)


def test_a_report_is_a_table_and_json(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--rounds=2"])
    report("evaluation", [Row("a", "s", 2.0, 4.0, 2.0, 1.0, 3.0), Row("b", "dB", 41.5)], str(tmp_path / "rows.json"))
    assert capsys.readouterr().out.splitlines()[2:] == ["| a | s | 2 | 4 | 2 | 1 to 3 |", "| b | dB | 41.5 |  |  |  |"]
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["command"] == "python -m benchmarks.evaluation --rounds=2"
    assert written["rows"][1] == {
        **dict.fromkeys(("baseline", "ratio", "ratio_min", "ratio_max")),
        "what": "b",
        "unit": "dB",
        "ours": 41.5,
    }


def test_the_two_frechet_distances_are_equal_whatever_the_ranks() -> None:
    for samples in (12, 80):
        command = evaluation.Command(features=24, root_features=20, samples=samples, rounds=1)
        rows, error = evaluation.distance_rows(command)
        assert error < 1e-6
        assert [row.unit for row in rows] == ["s"] * 3


def test_stages_of_the_input_pipeline_give_what_they_say(tmp_path: pathlib.Path) -> None:
    from tganv2_tf.config import DataConfig, ModelConfig

    write_data_set(tmp_path / "data", [20, 20], height=16, width=16)
    model = ModelConfig(resolution=16, frame_strides=(2,), batch_strides=(2,), up_channels=(4,) * 4)
    data = DataConfig(data_dir=str(tmp_path / "data"), flip=True, shuffle_buffer=2)
    found = {name: next(iter(stage)) for name, (stage, _) in input_pipeline.stages(data, model, 2).items()}
    assert found["decoding"].shape == found["crop, flip"].shape == (16, 16, 16, 3)
    assert found["batch"].shape == (2, 16, 16, 16, 3)
    shapes = [(2, 16, 8, 8, 3), (1, 8, 16, 16, 3)]
    assert [tuple(level.shape) for level in found["normalisation, pyramid"]] == shapes
    assert [tuple(level.shape) for level in found["whole pipeline"][0]] == [(1, *shape) for shape in shapes]
