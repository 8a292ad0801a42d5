"""The comparison of the systems: equal compute, recipes that exist, the table and its plot."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from PIL import Image

from benchmarks.paper import table2
from benchmarks.paper.runs import Runner, Usage, make_config
from tganv2_tf import cli, evaluate, generate
from tganv2_tf.config import EvalConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.systems import SYSTEMS

pytestmark = pytest.mark.slow


def command(folder: pathlib.Path, **options: Any) -> table2.Command:
    defaults = {"tflops": 0.5, "num_seeds": 2, "num_samples": 64, "output_dir": str(folder / "out")}
    return table2.Command(**{**defaults, **options})


def test_every_system_has_a_row():
    assert {make_config(recipe, []).system for recipe in table2.RECIPES.values()} == set(SYSTEMS)
    assert set(table2.PUBLISHED) == set(table2.RECIPES)


def test_systems_have_equal_compute_and_growth_is_scaled(tmp_path: pathlib.Path) -> None:
    plans, costs = table2.plan(command(tmp_path, systems="progressive_vgan,vgan"))
    assert [each.setting for each in plans] == ["vgan", "progressive_vgan"] * 2  # the order of the table
    for cost in costs.values():
        assert cost.steps * cost.multiply_adds == pytest.approx(0.5e12, rel=0.03)
    configs = {each.name: make_config(each.recipe, each.flags) for each in plans}
    assert [config.train.seed for config in configs.values()] == [0, 0, 1, 1]
    grown, recipe = configs[plans[1].name], make_config(table2.RECIPES["progressive_vgan"], [])
    scale = grown.train.train_steps / recipe.train.train_steps
    assert scale < 0.1
    assert grown.model.stable_clips == round(scale * recipe.model.stable_clips)
    assert grown.model.fading_clips == round(scale * recipe.model.fading_clips)


def test_unknown_systems_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="--systems=vgan,gan: valid: some of vgan,tgan,"):
        command(tmp_path, systems="vgan,gan")


def test_the_table_has_scores_and_resources(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(runner: Runner, name: str, module: str, *flags: str, result: str = "") -> None:
        if module == "tganv2_tf.train":
            runner._record_usage(name, Usage(100.0, 2_000_000_000))
        if module == "tganv2_tf.generate":
            cli.parse(flags, generate.Command)
        if module == "tganv2_tf.evaluate":
            cli.parse(flags, evaluate.Command, EvalConfig)
            value = 9.0 if name == "scores-real" else 4.0 if name.endswith("1") else 2.0
            path = runner.folder / result
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"scores": {score: {"mean": value} for score in table2.SCORES}}))

    monkeypatch.setattr(Runner, "run", run)
    costs = {"vgan": table2.Cost(100, 5e9, ()), "tganv2": table2.Cost(200, 2.5e9, ())}
    monkeypatch.setattr(table2, "cost_of", lambda recipe, tflops: costs[make_config(recipe, []).system])
    assert table2.main(command(tmp_path, systems="tganv2,vgan")) == 0
    table = (tmp_path / "out" / "table2.md").read_text()
    assert capsys.readouterr().out.endswith(table + "\n")
    assert "| vgan | 8.31 ± .09 | 100 | 5.00 | 100 | 2.00 | 3 ± 1 | 3 ± 1 |" in table
    assert "| tganv2 | 22.70 ± .19 | 200 | 2.50 | 100 | 2.00 | 3 ± 1 |" in table
    assert table.rstrip().endswith("| real test clips | | | | | | 9 | 9 | 9 | 9 | 9 |")
    with Image.open(tmp_path / "out" / "table2.png") as image:
        assert image.size == (1200, 480)


def test_resources_of_a_resumed_run_add_up(tmp_path: pathlib.Path) -> None:
    runner = Runner(tmp_path, "demo.flags")
    assert runner.usage("run") == Usage(0.0, 0)
    runner._record_usage("run", Usage(3.0, 50))
    runner._record_usage("run", Usage(4.0, 20))
    assert runner.usage("run") == Usage(7.0, 50)
    runner.run("help", "tganv2_tf", "--help")
    used = runner.usage("help")
    assert 0.01 < used.cpu_seconds < 60 and used.peak_bytes > 5_000_000
