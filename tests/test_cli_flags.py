"""Command lines: what wins, where flagfiles are found, and one line for every mistake."""

import dataclasses
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tganv2_tf import __main__, cli_flags
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
        (["--pth=x"], r"--pth: no such flag; did you mean --path\?$"),
        (["--path=x", "--nofats"], r"--nofats: no such flag; did you mean --nofast\?$"),
        (["--path=x", "--hlep"], r"did you mean --help\?$"),
        (["--path=x", "--unlike=1"], "--unlike: no such flag; --help lists all$"),
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


SUMMARY = """What it does, in a sentence that goes on and on and on.

python -m pkg.tool --path=x \\
  --fast

More of it:

  a layout
  of its own
"""


@dataclasses.dataclass(frozen=True)
class Others:
    """The rest of them.

    Not shown.
    """

    sign: str = option("text without a default", "")
    rate: float = dataclasses.field(default=0.5, metadata={"help": "first of a theme", "group": "A theme"})
    steps: tuple[int, ...] = option("its second, with an explanation that is too long for one line of it", ())


def test_help_has_examples_then_the_flags_in_groups(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert cli_flags.run(lambda *options: 1, (Options, Others), "pkg.tool", SUMMARY, ["--help"]) == 0
    head, usage, flags = capsys.readouterr().out.partition("\nUsage:")
    assert head == (
        "What it does, in a sentence that goes on and on and on.\n\n"
        "Examples\n  python -m pkg.tool --path=x \\\n    --fast\n\n"
        "More of it:\n\n  a layout\n  of its own\n"
    )
    assert flags.partition("\n\n")[2] == (
        "Options\n"
        "  --path   a required path (required)\n"
        "  --count  a number (default 3)\n"
        "  --sizes  some sizes (default 1,2)\n"
        "  --kind   a choice (a|b; default a)\n"
        "  --fast   a switch (default false)\n"
        "\n"
        "The rest of them\n"
        "  --sign   text without a default\n"
        "\n"
        "A theme\n"
        "  --rate   first of a theme (default 0.5)\n"
        "  --steps  its second, with an explanation that is too long\n"
        "           for one line of it\n"
    )
    assert usage


@pytest.mark.parametrize(("columns", "widest"), [("20", 60), ("72", 72), ("1000", 120)])
def test_help_fits_the_terminal(monkeypatch, columns, widest):
    monkeypatch.setenv("COLUMNS", columns)
    lines = cli_flags.help_text("pkg.tool", "So. " * 100, RUN).splitlines()
    assert widest - 12 < max(map(len, lines)) <= widest


@pytest.fixture(scope="module")
def all_commands():
    """Name -> what each command hands to `cli_flags.run`: its option dataclasses, name and summary."""
    names = [name for folder in __main__.GROUPS for name in __main__.commands(folder)]
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_flags, "run", lambda main, *arguments: calls.append(arguments))
        for name in names:
            with pytest.raises(SystemExit):
                runpy.run_path(str(ROOT / f"{name.replace('.', '/')}.py"), run_name="__main__")
    assert len(calls) == len(names)
    return dict(zip(names, calls))


def test_every_command_is_found_and_says_its_own_name(all_commands):
    assert {"tganv2_tf.train", "tganv2_tf.doctor", "tganv2_tf.interop.chainer", "data_prep.verify"} <= set(all_commands)
    assert {"benchmarks.cost", "benchmarks.ablation"} <= set(all_commands)
    assert not {name for name in all_commands if name.rpartition(".")[2] in ("__main__", "quiet", "cli_flags")}
    for name, (_, command, _) in all_commands.items():
        assert command == name


def test_every_example_in_the_help_is_a_command_that_parses(all_commands):
    for name, (options, _, summary) in all_commands.items():
        examples = re.findall(r"^ *python -m ((?:.*\\\n)*.*)$", summary, re.MULTILINE)
        assert examples, f"{name} has no example"
        assert any(example.split()[0] == name for example in examples)
        for example in examples:
            command, *argv = shlex.split(example.replace("\\\n", " "))
            cli_flags.parse(argv, *all_commands[command][0])
        text = cli_flags.help_text(name, summary, options)
        assert text.index("\nExamples\n") < text.index("\nUsage: ")
        for option_type in options:
            for field in dataclasses.fields(option_type):
                assert text.count(f"\n  --{field.name} ") == 1


def test_no_command_needs_tensorflow_for_its_help():
    # One process for all of them: each takes its modules from those before, and none may bring TensorFlow along.
    script = (
        "import runpy, sys\n"
        "from tganv2_tf import __main__\n"
        "sys.argv[1:] = ['--help']\n"
        "for folder in __main__.GROUPS:\n"
        "    for name in __main__.commands(folder):\n"
        "        try:\n"
        "            runpy.run_module(name, run_name='__main__')\n"
        "        except SystemExit as status:\n"
        "            print('status', name, status.code, 'tensorflow' in sys.modules, 'gradio' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    statuses = re.findall("^status .*$", result.stdout, re.MULTILINE)
    names = [name for folder in __main__.GROUPS for name in __main__.commands(folder)]
    assert statuses == [f"status {name} 0 False False" for name in names], result.stderr


def test_the_list_of_commands_has_their_first_lines(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    assert __main__.main([]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^  tganv2_tf.train +Trains TGANv2, or goes on with a run\.$", text, re.MULTILINE)
    assert re.search(r"^  data_prep.video_folder +Prepares a folder of videos of any kind", text, re.MULTILINE)
    assert text.index("tganv2_tf.train") < text.index("data_prep.ucf101") < text.index("benchmarks.cost")
    # An installation has no benchmarks, and another module that is no command stays out.
    package = tmp_path / "tganv2_tf"
    package.mkdir()
    (package / "paint.py").write_text('"""Paints.\n\nMore."""\nimport missing\nsys.exit(cli_flags.run(main))\n')
    (package / "library.py").write_text('"""Helps."""\nif __name__ == "__main__":\n    pass\n')
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    assert __main__.main(["--help"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["Train, generate, score, serve", "  tganv2_tf.paint  Paints."]


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("trian", "did you mean python -m tganv2_tf.train?"),
        ("chainer", "python -m tganv2_tf.interop.chainer?"),
        ("--x", "it takes none, and lists the commands"),
    ],
)
def test_the_list_takes_no_arguments(capsys, argument, advice):
    assert __main__.main([argument]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert repr(argument) in output.err and advice in output.err


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
