"""Command lines: precedence of flags, lookup of flagfiles, and one-line errors."""

import collections
import dataclasses
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tganv2_tf import __main__, cli
from tganv2_tf.cli import flag_files
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option
from tganv2_tf.runtime import lanes

RUN = (MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig)
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
    (options,) = cli.parse(["--path=x", "--sizes=4,5,6", "--fast"], Options)
    assert options == Options(path="x", count=3, sizes=(4, 5, 6), kind="a", fast=True)
    assert cli.parse(["--path=x", "--sizes="], Options)[0].sizes == ()


def test_the_command_line_wins_over_the_flagfile(tmp_path):
    recipe = tmp_path / "my.flags"
    recipe.write_text("# a comment\n--path=from_file\n--count=7\n\n--kind=b\n")
    (options,) = cli.parse([f"--flagfile={recipe}", "--count=8"], Options)
    assert (options.path, options.count, options.kind) == ("from_file", 8, "b")
    (options,) = cli.parse(["--flagfile", str(recipe)], Options)
    assert options.count == 7


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("~/x", "/home/me/x"),
        ("~", "/home/me"),
        ("~/x/", "/home/me/x/"),
        ("./~/x", "./~/x"),
        ("a~/x", "a~/x"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
    ],
)
def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path, given, path):
    """Bash does not expand it after `=`, and nothing else expands it in flagfiles."""
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "my.flags").write_text(f"--path={given}\n")
    for argv in ([f"--path={given}"], ["--path", given], [f"--flagfile={tmp_path / 'my.flags'}"]):
        assert cli.parse(argv, Options)[0].path == path


def test_defaults_stay_as_they_are_written(monkeypatch):
    """Otherwise --cache_dir would seem to change when another user resumes the run."""
    monkeypatch.setenv("HOME", "/home/me")
    default = cli.parse([], EvalConfig)[0].cache_dir
    assert default == EvalConfig().cache_dir and default.startswith("~/")


def test_bare_names_are_looked_up_in_flags(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model, _, train, _ = cli.parse(["--flagfile=ucf.flags"], *RUN)
    assert (model.resolution, train.global_batch_size) == (192, 64)


def test_flag_files_include_others_from_the_folder_their_own_folder_and_the_recipes(monkeypatch, tmp_path):
    (tmp_path / "work" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    mine = tmp_path / "work" / "sub" / "mine.flags"
    mine.write_text("  # mine\n--flagfile=own_videos.flags\n// and more\n--flagfile=beside.flags\n--z_dim=7\n")
    (mine.parent / "beside.flags").write_text("--z_dim=6\n--num_frames=32\n")
    own = cli.parse(["--flagfile=own_videos.flags"], *RUN)
    assert own[0].z_dim != 7

    def models(*argv):
        return cli.parse([f"--flagfile={mine}", *argv], *RUN)[0]

    assert models() == dataclasses.replace(own[0], z_dim=7, num_frames=32), "a later line wins"
    assert models("--z_dim=8").z_dim == 8
    assert models("--flagfile", "sub/beside.flags").z_dim == 6
    (tmp_path / "work" / "beside.flags").write_text("--lstm_channels=3\n")
    assert models() == dataclasses.replace(own[0], z_dim=7, lstm_channels=3), "the working folder comes first"
    (tmp_path / "work" / "ucf.flags").write_text("--z_dim=5\n")
    assert cli.parse(["--flagfile=ucf.flags"], *RUN)[0] == dataclasses.replace(ModelConfig(), z_dim=5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "--flagfile=none.flags"}, r"a: --flagfile=none\.flags: no such file; recipes in .*ucf\.flags"),
        ({"a": "--count=1\n--flagfile"}, "a: --flagfile: the name of the file is missing"),
        ({"a": "--flagfile=b", "b": "--flagfile=a"}, "b: --flagfile=a: flag files include each other: a -> b -> a"),
        ({"a": "--flagfile=b", "b": "--flagfile=./b"}, r"b: --flagfile=\./b: flag files include each other: b -> b"),
        ({"a": "--flagfile=b", "b": "--cuont=1"}, r"b: --cuont: no such flag; did you mean --count\?"),
        ({"a": "--flagfile=b", "b": "--count=many"}, "b: .*--count=many.*a whole number"),
        ({"a": "count"}, "a: unexpected argument 'count'"),
        ({"a": b"\xff\xfe"}, "--flagfile=a: not a text file"),
        ({"a/x": ""}, "--flagfile=a: no such file"),
    ],
)
def test_mistakes_in_flag_files_name_the_file_in_one_line(monkeypatch, tmp_path, files, message):
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"^{message}") as error:
        cli.parse(["--path=x", "--flagfile=a"], Options)
    assert "\n" not in str(error.value)


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
        cli.parse(argv, Options)
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

    assert cli.run(main, (Options,), "pkg.tool", "", ["--path=x"]) == status
    assert capsys.readouterr().err == line


def test_bugs_are_not_hidden():
    def main(options):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main, (Options,), "pkg.tool", "", ["--path=x"])


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
    assert cli.run(lambda *options: 1, (Options, Others), "pkg.tool", SUMMARY, ["--help"]) == 0
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
    lines = cli.help_text("pkg.tool", "So. " * 100, RUN).splitlines()
    assert widest - 12 < max(map(len, lines)) <= widest


@pytest.fixture(scope="module")
def all_commands():
    """Returns the arguments of `cli.run` by command: option dataclasses, name and summary."""
    names = [name for folder in __main__.GROUPS for name in __main__.commands(folder)]
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "run", lambda main, *arguments: calls.append(arguments))
        for name in names:
            with pytest.raises(SystemExit):
                runpy.run_path(str(ROOT / f"{name.replace('.', '/')}.py"), run_name="__main__")
    assert len(calls) == len(names)
    return dict(zip(names, calls))


def test_every_command_is_found_and_says_its_own_name(all_commands):
    assert {"tganv2_tf.train", "tganv2_tf.doctor", "tganv2_tf.import_chainer", "data_prep.verify"} <= set(all_commands)
    assert {"benchmarks.paper.cost", "benchmarks.paper.ablation"} <= set(all_commands)
    assert not {name for name in all_commands if name.rpartition(".")[2] in ("__main__", "quiet", "cli")}
    for name, (_, command, _) in all_commands.items():
        assert command == name


def test_every_example_in_the_help_is_a_command_that_parses(all_commands):
    for name, (options, _, summary) in all_commands.items():
        examples = re.findall(r"^ *python -m ((?:.*\\\n)*.*)$", summary, re.MULTILINE)
        assert examples, f"{name} has no example"
        assert any(example.split()[0] == name for example in examples)
        for example in examples:
            command, *argv = shlex.split(example.replace("\\\n", " "))
            cli.parse(argv, *all_commands[command][0])
        text = cli.help_text(name, summary, options)
        assert text.index("\nExamples\n") < text.index("\nUsage: ")
        # Systems may share flags; each of them shows its default.
        names = [field.name for kind in cli.plain_types(options) for field in dataclasses.fields(kind)]
        for field_name, times in collections.Counter(names).items():
            assert text.count(f"\n  --{field_name} ") == times


def test_no_command_needs_tensorflow_for_its_help():
    # One process for all commands: modules already imported are reused, and none may import TensorFlow.
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


def test_what_is_missing_is_told_before_tensorflow_is_imported(all_commands):
    cases: list[tuple[str, list[str], str]] = []
    for name, (kinds, *_) in all_commands.items():
        fields = [field for kind in cli.plain_types(kinds) for field in dataclasses.fields(kind)]
        required = [field.name for field in fields if field.default is dataclasses.MISSING]
        cases += [(name, [], f"--{required[0]} is missing")] if required else []
    project = [f"--{name}=x.png" for name in ("model_dir", "video", "output")]
    cases += [
        ("tganv2_tf.train", ["--data_dir=x"], "--model_dir is missing"),
        ("tganv2_tf.train", ["--data_dir=x", "--distribution=ray"], "--model_dir is missing"),
        ("tganv2_tf.train", ["--model_dir=x", "--flagfile=demo.flags"], "--data_dir is missing"),
        ("tganv2_tf.evaluate", [], "specify exactly one of --model_dir, --saved_model, --video_dir"),
        ("tganv2_tf.evaluate", ["--model_dir=x"], "--classifier is missing"),
        ("tganv2_tf.evaluate", ["--model_dir=x", "--scores=fvd"], "--i3d is missing"),
        ("tganv2_tf.evaluate", ["--video_dir=x", "--classifier=x"], "--data_dir is missing"),
        ("tganv2_tf.evaluate", ["--model_dir=x", "--scores=fid"], "--scores=fid: valid: some of"),
        ("tganv2_tf.project", [*project, "--loss=both"], "--classifier is missing"),
        ("tganv2_tf.generate", ["--output=x.gif"], "specify exactly one of --model_dir and --saved_model"),
        ("tganv2_tf.explore", [], "specify exactly one of --model_dir and --saved_model"),
    ]
    assert len(cases) > 20
    script = (
        "import runpy, sys\n"
        "from tganv2_tf.runtime import lanes\n"
        "lanes.tensorflow_fault = lambda: 'it was imported'\n"  # which then ends the command
        f"for name, flags in {[case[:2] for case in cases]}:\n"
        "    sys.argv[1:] = flags\n"
        "    try:\n"
        "        runpy.run_module(name, run_name='__main__')\n"
        "    except SystemExit as status:\n"
        "        assert status.code == 2 and 'tensorflow' not in sys.modules, (name, flags)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    said = result.stderr.splitlines()
    assert len(said) == len(cases)
    for line, (name, _, expected) in zip(said, cases):
        assert line.startswith(f"{name.rpartition('.')[2]}: {expected}"), line


def test_what_is_written_at_the_end_is_looked_at_before_the_beginning(all_commands, capsys, tmp_path):
    (tmp_path / "file").touch()
    marked = []
    for name, (kinds, *_) in all_commands.items():
        for field in (field for kind in cli.plain_types(kinds) for field in dataclasses.fields(kind)):
            if field.name in ("output", "report", "contact_sheet") or field.metadata["destination"]:
                assert field.metadata["destination"] in ("file", "folder"), f"{name} --{field.name}"
                marked.append((name, field.name))
    assert {("tganv2_tf.generate", "output"), ("tganv2_tf.export", "output_dir")} <= set(marked) and len(marked) > 15

    @dataclasses.dataclass(frozen=True)
    class Written:
        """What is written."""

        file: str = option("a file", "", destination="file")
        folder: str = option("a folder", "", destination="folder")

    for flags, said in (
        ([f"--file={tmp_path}/file/x"], f"--file={tmp_path}/file/x: cannot be written: Not a directory"),
        ([f"--file={tmp_path}"], f"--file={tmp_path}: it is a folder; name a file"),
        ([f"--folder={tmp_path}/file/x"], f"--folder={tmp_path}/file/x: cannot be written: Not a directory"),
        ([f"--file={tmp_path}/new/x.png", f"--folder={tmp_path}"], ""),
        ([f"--file={tmp_path}/new/"], ""),  # a folder of frames
        ([], ""),
    ):
        status = cli.run(lambda _: 7, (Written,), "pkg.tool", "", flags)
        assert status == (1 if said else 7)
        assert capsys.readouterr().err.startswith(f"tool: {said}" if said else "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_list_of_commands_has_their_first_lines(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    assert __main__.main([]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^  tganv2_tf.train +Trains TGANv2, or resumes a run\.$", text, re.MULTILINE)
    assert re.search(r"^  data_prep.video_folder +Prepares a folder of videos of any kind", text, re.MULTILINE)
    assert text.index("tganv2_tf.train") < text.index("data_prep.ucf101") < text.index("benchmarks.paper.cost")
    # An installation has no benchmarks, and modules that are not commands are excluded.
    package = tmp_path / "tganv2_tf"
    package.mkdir()
    (package / "paint.py").write_text('"""Paints.\n\nMore."""\nimport missing\nsys.exit(cli.run(main))\n')
    (package / "library.py").write_text('"""Helps."""\nif __name__ == "__main__":\n    pass\n')
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    assert __main__.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["Train, generate, score, serve", "  tganv2_tf.paint  Paints."] and len(lines) == 6


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("trian", "did you mean train?"),
        ("data_perp.ucf101", "did you mean data_prep.ucf101?"),
        ("--x", "run tganv2 without arguments for a list"),
    ],
)
def test_an_unknown_command_is_one_line(capsys, name, advice):
    assert __main__.main([name]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err == f"tganv2: {name!r} is not a command; {advice}\n"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("train", "tganv2_tf.train"),
        ("ucf101", "data_prep.ucf101"),
        ("import_chainer", "tganv2_tf.import_chainer"),
        ("data_prep.ucf101", "data_prep.ucf101"),
    ],
)
def test_a_command_runs_as_python_runs_its_module(monkeypatch, name, module):
    calls = []

    def run(*arguments):
        calls.append((arguments[2], list(sys.argv)))
        return 7

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr(sys, "argv", ["tganv2", name, "--path=x"])
    with pytest.raises(SystemExit) as end:
        __main__.console()
    assert end.value.code == 7
    ((command, argv),) = calls
    assert (command, argv[1:]) == (module, ["--path=x"])
    assert argv[0] == str(ROOT / f"{module.replace('.', '/')}.py"), "as `python -m` sets it"


def test_a_last_part_that_is_not_unique_is_refused(monkeypatch, tmp_path):
    for folder in ("tganv2_tf", "data_prep"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "paint.py").write_text('"""Paints."""\nsys.exit(cli.run(main))\n')
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    with pytest.raises(
        LookupError, match=r"paint is the last part of several commands: tganv2_tf\.paint, data_prep\.paint"
    ):
        __main__.find("paint")
    assert __main__.find("data_prep.paint") == "data_prep.paint"


# A process without TensorFlow, or with another version according to importlib.metadata.
OTHER_TENSORFLOW = """
import importlib.metadata, sys
wanted, real = sys.argv.pop(1), importlib.metadata.version
def version(name):
    if name.startswith(("tensorflow", "tf-")) and not (name == "tensorflow" and wanted):
        raise importlib.metadata.PackageNotFoundError(name)
    return wanted if name == "tensorflow" else real(name)
importlib.metadata.version = version
from tganv2_tf.__main__ import console
sys.exit(console())
"""


@pytest.mark.parametrize(
    ("version", "reason"), [("", "TensorFlow is not installed"), ("2.14.1", "TensorFlow 2.14.1 is too old; 2.15 is")]
)
def test_a_tensorflow_that_cannot_be_used_is_one_line(tmp_path, version, reason):
    def run(*arguments):
        command = [sys.executable, "-c", OTHER_TENSORFLOW, version, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    result = run("generate", f"--model_dir={ROOT / 'examples/demo_generator'}", "--output=x.png")
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(rf"generate: {reason}.*: pip install -r requirements.*\n", result.stderr)
    assert run("moving_shapes", "--output_dir=shapes", "--videos_per_class=1").returncode == 0, "it needs none"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "No module named 'cv2'"),
        (
            ImportError("Traceback (most recent call last):\n  x\nImportError: libx.so: none\n\n\nFailed to load."),
            "libx.so: none",
        ),
    ],
)
def test_an_import_that_fails_is_one_line_unless_it_is_a_bug(capsys, error, reason):
    def main(options):
        raise error

    assert cli.run(main, (Options,), "pkg.tool", "", ["--path=x"]) == 1
    assert capsys.readouterr().err == f"tool: {reason}; to install missing packages: {lanes.install_command()}\n"
    error.name = "tganv2_tf.nothing"
    with pytest.raises(ImportError):
        cli.run(main, (Options,), "pkg.tool", "", ["--path=x"])


@pytest.mark.parametrize("recipe", sorted((ROOT / "flags").glob("*.flags")), ids=lambda path: path.name)
def test_every_flagfile_makes_a_config_and_says_what_it_is(recipe):
    Config(*cli.parse([f"--flagfile={recipe}"], *RUN))
    head = recipe.read_text().split("\n--")[0]
    assert "python -m tganv2_tf.train" in head, "the header names the command"
    assert "Hardware:" in head
    assert "Expect:" in head


@pytest.mark.parametrize("recipe", sorted((ROOT / "flags").glob("*.flags")), ids=lambda path: path.name)
def test_every_flagfile_is_complete(recipe):
    # A recipe must not change when a default does: with its base recipe it sets every field except the paths, which
    # depend on the machine.
    lines = [line for line, _ in flag_files.expand([f"--flagfile={recipe.name}"])]
    given = {line[2:].split("=")[0] for line in lines}
    given = {name[2:] if name.startswith("no") and name[2:] in BOOLEANS else name for name in given}
    parts = cli.parse([f"--flagfile={recipe.name}"], *RUN)
    fields = [field for part in parts for field in dataclasses.fields(part)]
    wanted = {field.name for field in fields if field.metadata["system"] in ("", parts[0].system)} - PATHS
    assert wanted - given == set()


@pytest.mark.parametrize("recipe", sorted((ROOT / "flags").glob("*.flags")), ids=lambda path: path.name)
def test_a_recipe_holds_only_what_differs_from_the_one_that_it_builds_on(recipe):
    own = [line for line in recipe.read_text().splitlines() if line.startswith("--")]
    if own[0].startswith("--flagfile="):
        config = cli.parse(own, *RUN)
        for line in own[1:]:
            try:
                without = cli.parse([other for other in own if other != line], *RUN)
            except ConfigError:
                continue
            assert without != config, line


BOOLEANS = {field.name for part in cli.plain_types(RUN) for field in dataclasses.fields(part) if field.type == "bool"}


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
    config = Config(*cli.parse([f"--flagfile={recipe}.flags"], *RUN))
    levels = config.model.pyramid.levels
    assert tuple(level.batch_size(config.train.global_batch_size) for level in levels) == clips
    assert tuple(level.frames for level in levels) == frames
    assert tuple(level.size for level in levels) == pixels
    # Values that the paper states outside the table.
    assert (config.model.z_dim, config.model.lstm_channels, config.data.flip) == (256, 1024, recipe != "faceforensics")
    assert config.train.score == "sum"
    assert config.model.spectral_norm


def test_the_recipes_of_the_table_differ_only_in_their_levels():
    def settings(recipe):
        parts = cli.parse([f"--flagfile={recipe}.flags"], *RUN)
        return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}

    first = settings("ucf")
    for recipe in ("ucf_frame_only", "ucf_batch_only", "ucf_no_subsampling", "ucf_bs256"):
        differing = {name for name, value in settings(recipe).items() if value != first[name]}
        assert differing <= {"global_batch_size", "frame_strides", "batch_strides"}
