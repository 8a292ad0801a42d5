"""The benchmarks of preparation, input pipeline, evaluation and start-up: their rows at tiny sizes."""

from __future__ import annotations

import importlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, Callable

import cv2
import pytest

from benchmarks.speed import bench, evaluation, gpu, input_pipeline, levels
from benchmarks.speed.rows import Row, compared, report
from tests.conftest import TINY_FLAGS
from tests.data_sets import write_data_set
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import UserError
from tganv2_tf.runtime.machine import processor


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
    report(
        "benchmarks.speed.evaluation",
        [Row("a", "s", 2.0, 4.0, 2.0, 1.0, 3.0), Row("b", "dB", 41.5)],
        str(tmp_path / "rows.json"),
    )
    header, *_, first, second = capsys.readouterr().out.splitlines()
    assert processor() in header
    assert [first, second] == ["| a | s | 2 | 4 | 2 | 1 to 3 |", "| b | dB | 41.5 |  |  |  |"]
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["command"] == "python -m benchmarks.speed.evaluation --rounds=2"
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


@pytest.mark.slow
def test_stages_of_the_input_pipeline_give_what_they_say(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path / "data", [20, 20], height=16, width=16)
    model = ModelConfig(resolution=16, frame_strides=(2,), batch_strides=(2,), up_channels=(4,) * 4)
    data = DataConfig(data_dir=str(tmp_path / "data"), flip=True, shuffle_buffer=2)
    found = {name: next(iter(stage)) for name, (stage, _) in input_pipeline.stages(data, model, 2).items()}
    assert found["decoding"].shape == found["crop, flip"].shape == (16, 16, 16, 3)
    assert found["batch"].shape == (2, 16, 16, 16, 3)
    shapes = [(2, 16, 8, 8, 3), (1, 8, 16, 16, 3)]
    assert [tuple(level.shape) for level in found["pyramid, normalisation"]] == shapes
    assert [tuple(level.shape) for level in found["whole pipeline"][0]] == [(1, *shape) for shape in shapes]


@pytest.mark.slow
def test_steps_on_one_batch_and_on_shards_take_turns(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tganv2_tf.models.tganv2 import TGANv2

    write_data_set(tmp_path / "data", [20] * 3, height=16, width=16)
    flags = ["--resolution=16", "--frame_strides=2", "--batch_strides=1", "--global_batch_size=2", "--shuffle_buffer=2"]
    flags += ["--z_dim=4", "--lstm_channels=4", "--up_channels=4,4,4,4", "--discriminator_channels=4,4,4"]
    flags += [f"--data_dir={tmp_path / 'data'}"]
    options = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
    config = Config(*cli.parse(["--flagfile=demo.flags", *flags], *options))
    batches: list[tuple[bytes, ...]] = []

    def make_train_function(self: TGANv2) -> Callable[[Iterator[Any]], dict[str, float]]:
        def step(iterator: Iterator[Any]) -> dict[str, float]:
            levels, _, _ = next(iterator)
            batches.append(tuple(part.numpy().tobytes() for level in levels for part in level.values))
            return {"generator_loss": 0.0}

        return step

    monkeypatch.setattr(TGANv2, "make_train_function", make_train_function)
    memory, streamed = input_pipeline.step_seconds(config, steps=2, rounds=2)
    assert len(memory) == len(streamed) == 2
    warm_up = input_pipeline.WARM_UP
    memory_batches = [*batches[:warm_up], *batches[2 * warm_up :][:2], *batches[2 * warm_up + 4 :][:2]]
    streamed_batches = [
        *batches[warm_up : 2 * warm_up],
        *batches[2 * warm_up + 2 :][:2],
        *batches[2 * warm_up + 6 :][:2],
    ]
    assert len(set(memory_batches)) == 1 and len(set(streamed_batches)) > 4


def test_rows_of_a_gpu_by_hand() -> None:
    one, other = gpu.Setting(8, "float32"), gpu.Setting(8, "float16")
    base = gpu.Result([2.0, 4.0], 5_000_000)
    baselines = {8: base}
    # 6 x 10^9 multiply-adds in 3 s on a device of 8 x 10^9 per second: a quarter of its speed.
    assert gpu.rows_of(one, base, baselines, 6e9, 8e9) == [
        Row("step, 8 clips, float32", "s", 3.0),
        Row("step, 8 clips, float32, share of the speed of a matrix product", "", 0.25),
        Row("step, 8 clips, float32, peak memory", "MB", 5.0),
    ]
    assert gpu.rows_of(other, gpu.Result([1.0, 1.0], 0), baselines, 6e9, 8e9)[0] == Row(
        "step, 8 clips, float16", "s", 1.0, 3.0, 3.0, 2.0, 4.0
    )
    plain = gpu.rows_of(gpu.Setting(8, "float32", plain=True), gpu.Result([4.0, 4.0], 0), baselines, 6e9, 8e9)
    assert plain == [Row("step, 8 clips, float32, plain: ours against it", "s", 3.0, 4.0, 1.5, 1.0, 2.0)]
    # 16 clips in 2 and 4 s against 8: twice as many per second.
    both = gpu.Setting(8, "float32", num_devices=2)
    two, share = gpu.rows_of(both, gpu.Result([2.0, 4.0], 0), baselines, 12e9, 8e9)
    assert two == Row("step, 8 clips each on 2 devices, float32, against one", "clips/s", 6.0, 3.0, 2.0, 2.0, 2.0)
    assert share.ours == 0.25


@pytest.mark.slow
def test_the_command_for_gpus_on_a_cpu(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="TensorFlow sees no GPU"):
        gpu.main(gpu.Command())
    (tmp_path / "tiny.flags").write_text("\n".join(TINY_FLAGS))
    small = [f"--flagfile_of_run={tmp_path}/tiny.flags", "--clips=2", "--rounds=1", "--steps=1", "--device=cpu"]
    (command,) = cli.parse([*small, "--dtypes=float32", f"--output={tmp_path}/gpu.json"], gpu.Command)
    assert gpu.main(command) == 0
    rows = {row["what"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert rows["matrix product, float32"]["ours"] > 0
    assert rows["step, 2 clips, float32, XLA"]["ratio"] > 0
    assert rows["step, 2 clips, float32, plain: ours against it"]["ratio"] > 0
    assert 0 < rows["step, 2 clips, float32, share of the speed of a matrix product"]["ours"] < 1
    assert gpu.main(*cli.parse([*small, "--minutes=1e-6"], gpu.Command)) == 0
    assert "left out: 2 clips, float32, XLA: no time" in capsys.readouterr().err


def test_the_report_has_every_part_that_is_there_and_says_which_failed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"ours": 2.0, "baseline": 8.0, "ratio": 4.0, "ratio_min": 3.5, "ratio_max": 4.5}
    row = {"what": "a step", "unit": "s", **numbers}
    part = {"name": "levels", "command": "python -m benchmarks.speed.levels", "machine": "2 cores", "rows": [row]}
    (tmp_path / "levels.json").write_text(json.dumps(part))
    monkeypatch.setitem(bench.PARTS, "startup", ["there_is_no_such_benchmark"])
    command = bench.Command(str(tmp_path), "levels,startup", report=str(tmp_path / "results.md"))
    with pytest.raises(UserError, match=r"startup: .*there_is_no_such_benchmark.* ended with status 1"):
        bench.main(command)
    text = (tmp_path / "results.md").read_text()
    assert "| a step | s | 2 | 8 | 4 | 3.5 to 4.5 |" in text
    assert "`python -m benchmarks.speed.levels`" in text
    picture = cv2.imread(str(tmp_path / "results.png"))
    assert picture is not None and picture.std() > 1, "something is drawn"


def test_each_part_is_a_command_that_exists() -> None:
    for program, *flags in bench.PARTS.values():
        module = importlib.import_module(f"benchmarks.speed.{program}")
        needed = ["--data_dir=shards", "--classifier=c3d.npz"] if program == "race" else []
        cli.parse([*flags, *needed, "--output=x.json"], module.Command)


def test_a_level_more_has_twice_the_pixels_and_half_the_clips_and_frames() -> None:
    spec = levels.make_config(levels.Command(), 5).model.pyramid
    assert [(level.size, level.frames, level.batch_size(32)) for level in spec.levels] == [
        (24, 32, 32),
        (48, 16, 16),
        (96, 8, 8),
        (192, 4, 4),
        (384, 2, 2),
    ]
