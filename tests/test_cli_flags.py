"""Command lines: what wins, where flagfiles are found, and one line for every mistake."""

import dataclasses

import pytest

from tests.conftest import ROOT
from tganv2_tf import cli_flags
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig, option
from tganv2_tf.errors import ConfigError, UserError

RUN = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
PATHS = {"data_dir", "model_dir", "classifier", "c3d_mean", "cache_dir"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options."""

    path: str = option("a required path")
    count: int = option("a number", 3)
    sizes: tuple[int, ...] = option("some sizes", (1, 2))
    kind: str = option("a choice", "a", ("a", "b"))
    fast: bool = option("a switch", False)


def test_types_and_defaults():
    (options,) = cli_flags.parse(["--path=x", "--sizes=4,5,6", "--fast"], Options)
    assert options == Options(path="x", count=3, sizes=(4, 5, 6), kind="a", fast=True)
    assert cli_flags.parse(["--path=x", "--sizes="], Options)[0].sizes == ()


def test_the_command_line_wins_over_the_flagfile(tmp_path):
    recipe = tmp_path / "my.flags"
    recipe.write_text("# a comment\n--path=from_file\n--count=7\n\n--kind=b\n")
    (options,) = cli_flags.parse([f"--flagfile={recipe}", "--count=8"], Options)
    assert (options.path, options.count, options.kind) == ("from_file", 8, "b")
    (options,) = cli_flags.parse(["--flagfile", str(recipe)], Options)
    assert options.count == 7


def test_bare_names_are_looked_up_in_flags(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model, _, train, _ = cli_flags.parse(["--flagfile=ucf.flags"], *RUN)
    assert (model.resolution, train.global_batch_size) == (192, 64)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--pth=x"], "Unknown command line flag 'pth'"),
        ([], "--path is missing: a required path"),
        (["--path=x", "--count=many"], "--count=many.*a whole number"),
        (["--path=x", "--sizes=1,a"], "--sizes=1,a.*whole numbers separated by commas"),
        (["--path=x", "--kind=c"], r"--kind=c.*a\|b"),
        (["--path=x", "--nofast=3"], "nofast"),
        (["--path=x", "stray"], "unexpected argument 'stray'"),
        (["--path=x", "--flagfile=none.flags"], "--flagfile=none.flags: no such file.*ucf.flags"),
        (["--path=x", "--flagfile"], "--flagfile"),
    ],
)
def test_mistakes_name_the_flag_in_one_line(argv, message):
    with pytest.raises(ConfigError, match=message) as error:
        cli_flags.parse(argv, Options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("broken"), 1, "tool: broken\n"),
        (ConfigError("--x=1"), 2, "tool: --x=1\n"),
        (OSError(28, "No space left on device", "/full"), 1, "tool: No space left on device: /full\n"),
        (KeyboardInterrupt(), 130, "tool: interrupted\n"),
    ],
)
def test_errors_become_one_line_and_a_status(capsys, error, status, line):
    def main(options):
        raise error

    assert cli_flags.run(main, (Options,), "pkg.tool", "", ["--path=x"]) == status
    assert capsys.readouterr().err == line


def test_bugs_are_not_hidden():
    def main(options):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli_flags.run(main, (Options,), "pkg.tool", "", ["--path=x"])


def test_help_lists_every_flag_with_its_default(capsys):
    assert cli_flags.run(lambda options: 1, (Options,), "pkg.tool", "What it does.", ["--help"]) == 0
    text = capsys.readouterr().out
    assert "What it does." in text
    assert "--path: a required path (required)" in text
    assert "--sizes: some sizes (default 1,2)" in text
    assert "--kind: a choice (a|b; default a)" in text


@pytest.mark.parametrize("recipe", sorted((ROOT / "flags").glob("*.flags")), ids=lambda path: path.name)
def test_every_flagfile_makes_a_config_and_says_what_it_is(recipe):
    Config(*cli_flags.parse([f"--flagfile={recipe}"], *RUN))
    head = recipe.read_text().split("\n--")[0]
    assert "python -m tganv2_tf.train" in head, "the header names the command"
    assert "Hardware:" in head
    assert "Expect:" in head


@pytest.mark.parametrize("recipe", sorted((ROOT / "flags").glob("*.flags")), ids=lambda path: path.name)
def test_every_flagfile_is_complete(recipe):
    # A recipe must not change when a default does: it sets every field but the paths, which belong to a machine.
    given = {line[2:].split("=")[0] for line in recipe.read_text().splitlines() if line.startswith("--")}
    given = {name[2:] if name.startswith("no") and name[2:] in BOOLEANS else name for name in given}
    wanted = {field.name for part in RUN for field in dataclasses.fields(part)} - PATHS
    assert wanted - given == set()


BOOLEANS = {field.name for part in RUN for field in dataclasses.fields(part) if field.type == "bool"}


@pytest.mark.parametrize(
    ("recipe", "clips", "frames", "pixels"),
    [  # paper, Table 1 and section 4
        ("ucf", (64, 32, 16, 8), (16, 8, 4, 2), (24, 48, 96, 192)),
        ("ucf_frame_only", (8, 8, 8, 8), (16, 8, 4, 2), (24, 48, 96, 192)),
        ("ucf_batch_only", (8, 4, 4, 4), (16, 16, 16, 16), (24, 48, 96, 192)),
        ("ucf_no_subsampling", (4, 4, 4, 4), (16, 16, 16, 16), (24, 48, 96, 192)),
        ("ucf_bs256", (256, 128, 64, 32), (16, 8, 4, 2), (24, 48, 96, 192)),
        ("faceforensics", (64, 32, 16, 8), (16, 8, 4, 2), (32, 64, 128, 256)),
    ],
)
def test_the_papers_recipes_have_the_papers_levels(recipe, clips, frames, pixels):
    config = Config(*cli_flags.parse([f"--flagfile={recipe}.flags"], *RUN))
    levels = config.model.pyramid.levels
    assert tuple(level.batch_size(config.train.global_batch_size) for level in levels) == clips
    assert tuple(level.frames for level in levels) == frames
    assert tuple(level.size for level in levels) == pixels
    # What the paper states beside the table.
    assert (config.model.z_dim, config.model.lstm_channels, config.data.flip) == (256, 1024, recipe != "faceforensics")
    assert config.train.score == "sum"
    assert config.model.spectral_norm


def test_the_recipes_of_the_table_differ_only_in_their_levels():
    def settings(recipe):
        parts = cli_flags.parse([f"--flagfile={recipe}.flags"], *RUN)
        return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}

    first = settings("ucf")
    for recipe in ("ucf_frame_only", "ucf_batch_only", "ucf_no_subsampling", "ucf_bs256"):
        differing = {name for name, value in settings(recipe).items() if value != first[name]}
        assert differing <= {"global_batch_size", "frame_strides", "batch_strides"}
