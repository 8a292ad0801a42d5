"""The ablation: equal budgets, valid commands, and a table of the results."""

from __future__ import annotations

import json

import pytest

from benchmarks.paper import ablation
from tganv2_tf import cli, evaluate
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import UserError

pytestmark = pytest.mark.slow

RUN = (ModelConfig, DataConfig, TrainConfig, EvalConfig)


def command(folder):
    return ablation.Command(output_dir=str(folder), tflops=0.5, num_seeds=2, num_samples=64)


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """The plans of a recipe whose graphs are small, made once, because tracing the graphs takes a while."""
    recipe = tmp_path_factory.mktemp("ablation") / "recipe.flags"
    recipe.write_text(f"--flagfile={ablation.RECIPE}\n--r1_weight=0\n--noself_modulation\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "RECIPE", str(recipe))
        return ablation.plan(command("unused"))


def test_all_runs_cost_the_same(plans):
    assert [(plan.row.name, plan.config.train.seed) for plan in plans] == [
        (name, seed) for seed in (0, 1) for name in ("full", "frame_only", "batch_only", "none")
    ]
    for plan in plans:
        assert plan.gflops * plan.config.train.train_steps == pytest.approx(500, rel=plan.gflops / 500)
    costs = {plan.row.name: plan.gflops / plan.config.train.global_batch_size for plan in plans}
    assert costs["full"] < costs["frame_only"] < costs["batch_only"] < costs["none"], "a clip's"


def test_the_rows_are_those_of_the_paper(plans):
    for plan in plans[:4]:
        recipe = {"full": "ucf", "none": "ucf_no_subsampling"}.get(plan.row.name, f"ucf_{plan.row.name}")
        paper = Config(*cli.parse([f"--flagfile={recipe}.flags"], *RUN))
        ours, theirs = (
            [(level.batch_size(config.train.global_batch_size), level.frames) for level in config.model.pyramid.levels]
            for config in (plan.config, paper)
        )
        assert ours[-1][0] == theirs[-1][0], "clips at the last level"
        assert (ours[0][0] > ours[1][0]) == (theirs[0][0] > theirs[1][0])
        assert [frames for _, frames in ours] == [frames for _, frames in theirs][: len(ours)]


class Recorded:
    """Replaces `Runner.run`: records commands, and writes scores that identify their run."""

    def __init__(self, fail_at=""):
        self.seen, self.fail_at = [], fail_at

    def __call__(self, runner, name, module, *flags, result=""):
        runner.commands.append(f"{module} {name}")
        self.seen.append((name, module, flags))
        if name == self.fail_at:
            raise UserError(f"{name} failed")
        if module == "tganv2_tf.evaluate":
            path = runner.folder / result
            path.parent.mkdir(parents=True, exist_ok=True)
            value = {"full": 10.0, "none": 2.0}.get(name.split("-")[1], 5.0) + 2 * name.endswith("seed1")
            scores = {score: {"mean": value * factor} for score, factor in (("inception_score", 1), ("c3d_fid", 10))}
            path.write_text(json.dumps({"scores": scores}))


def test_the_table_holds_what_the_commands_found(plans, tmp_path, monkeypatch, capsys):
    recorded = Recorded()
    monkeypatch.setattr(ablation.Runner, "run", lambda *args, **kwargs: recorded(*args, **kwargs))
    monkeypatch.setattr(ablation, "plan", lambda command: plans)
    assert ablation.main(command(tmp_path)) == 0
    table = (tmp_path / "ablation.md").read_text()
    assert capsys.readouterr().out == table + "\n"
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert "| 32 / 16 / 8 | 16 / 8 / 4 |" in rows["full"] and rows["full"].endswith("| 11.00 ± 1.00 | 110.00 ± 10.00 |")
    assert "| 8 / 8 / 8 | 16 / 8 / 4 |" in rows["frame_only"]
    assert "| 8 / 4 / 4 | 16 / 16 / 16 |" in rows["batch_only"]
    assert "| 4 / 4 / 4 | 16 / 16 / 16 |" in rows["none"] and rows["none"].endswith("| 3.00 ± 1.00 | 30.00 ± 10.00 |")
    assert rows["real clips of the test split"].endswith("| 5.00 | 50.00 |")
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
    trained = [flags for _, module, flags in recorded.seen if module == "tganv2_tf.train"]
    scored = [flags for _, module, flags in recorded.seen if module == "tganv2_tf.evaluate"]
    assert len(trained) == 8 and len(scored) == 8 + 2
    for flags in trained:
        Config(*cli.parse(flags, *RUN))
    for flags in scored:
        cli.parse(flags, evaluate.Command, EvalConfig)


def test_what_failed_ends_it_and_is_named(plans, tmp_path, monkeypatch):
    recorded = Recorded(fail_at=plans[3].name)
    monkeypatch.setattr(ablation.Runner, "run", lambda *args, **kwargs: recorded(*args, **kwargs))
    monkeypatch.setattr(ablation, "plan", lambda command: plans)
    with pytest.raises(UserError, match=f"{plans[3].name} failed"):
        ablation.main(command(tmp_path))
    assert not (tmp_path / "ablation.md").exists()


def test_a_command_that_fails_shows_its_last_line(tmp_path):
    runner = ablation.Runner(tmp_path, ablation.RECIPE)
    with pytest.raises(
        UserError, match=r"^train: tganv2_tf\.train ended with status 2: train: .*--loss=wrong.*; see .*train\.log$"
    ):
        runner.run("train", "tganv2_tf.train", "--loss=wrong")
    (tmp_path / "done").write_text("")
    runner.run("again", "no.such.module", result="done")
    assert runner.commands == ["python -m tganv2_tf.train --loss=wrong", "python -m no.such.module"]
