"""The comparison of recipes: equal compute, flags that exist, medians and ranges in the table."""

from __future__ import annotations

import json
import pathlib
import types

import pytest

from benchmarks.paper import recipes
from benchmarks.paper.runs import Runner, make_config
from tganv2_tf import cli, evaluate
from tganv2_tf.config import Config, EvalConfig
from tganv2_tf.errors import ConfigError, UserError

pytestmark = pytest.mark.slow

SETTINGS = "# comment\nbaseline:\nsmall batch: --global_batch_size=4 --ema_decay=0.99\n"


def command(folder: pathlib.Path, settings: str = SETTINGS, **options: object) -> recipes.Command:
    (folder / "settings.txt").write_text(settings)
    defaults = {"budget": 0.01, "num_seeds": 3, "num_samples": 64, "output_dir": str(folder / "out")}
    return recipes.Command(settings=str(folder / "settings.txt"), **{**defaults, **options})  # type: ignore[arg-type]


def test_settings_have_equal_compute_and_every_seed(tmp_path: pathlib.Path) -> None:
    plans = recipes.plan(command(tmp_path, content="glyphs", first_seed=5, num_seeds=2))
    assert [plan.setting for plan in plans] == ["baseline", "small batch"] * 2
    assert plans[0].steps == 60 and plans[1].steps == pytest.approx(119, abs=1), "0.01 of 5,966 steps; half the clips"
    configs = [make_config(recipes.RECIPE, plan.flags) for plan in plans]
    assert [config.train.seed for config in configs] == [5, 5, 6, 6]
    assert configs[1].train.global_batch_size == 4 and configs[1].train.train_steps == plans[1].steps
    assert not any(config.data.flip for config in configs), "mirrored glyphs are not glyphs"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("baseline --seed=1", r"settings\.txt:1: valid: NAME: FLAGS"),
        ("a:\n\na: --seed=1", r"settings\.txt:3: valid: NAME: FLAGS, each name once"),
        ("# nothing\n", "the file has no settings"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: pathlib.Path, settings: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipes.plan(command(tmp_path, settings))


def test_wrong_flags_are_found_before_the_first_run(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="no_such_flag"):
        recipes.plan(command(tmp_path, "a: --no_such_flag=1"))
    with pytest.raises(UserError, match=r"missing\.txt: No such file"):
        recipes.read_settings(str(tmp_path / "missing.txt"))


def test_the_table_has_medians_and_ranges(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(runner: Runner, name: str, module: str, *flags: str, result: str = "") -> None:
        if module == "tganv2_tf.evaluate":
            cli.parse(flags, evaluate.Command, EvalConfig)
            seed = int(name[-1]) if name[-1].isdigit() else 0
            value = {"base": 1.0, "smal": 4.0}.get(name.removeprefix("scores-")[:4], 9.0) + seed**2
            path = runner.folder / result
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"scores": {score: {"mean": value} for score in recipes.SCORES}}))

    monkeypatch.setattr(Runner, "run", run)

    def step_cost(config: Config, batch_size: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(multiply_adds=recipes.BUDGET / 6000 * batch_size / 8)

    monkeypatch.setattr("tganv2_tf.training.cost.step_cost", step_cost)
    assert recipes.main(command(tmp_path)) == 0
    table = (tmp_path / "out" / "recipes.md").read_text()
    assert capsys.readouterr().out == table + "\n"
    assert "| baseline | none | 60 | 2 (1 to 5) |" in table
    assert "| small batch | `--global_batch_size=4` `--ema_decay=0.99` | 120 | 5 (4 to 8) |" in table
    assert table.rstrip().endswith("| real test clips | | | 9 | 9 | 9 | 9 | 9 |")
