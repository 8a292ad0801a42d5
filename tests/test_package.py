"""An installed package: the wheel, its metadata, and its commands in a folder outside the checkout."""

from __future__ import annotations

import email.message
import email.parser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT
from tganv2_tf.runtime import lanes

pytestmark = pytest.mark.slow

SOURCES = ["pyproject.toml", "README.md", "LICENSE", "tganv2_tf", "data_prep", "flags"]
EXTRAS = ["explore", "fvd", "gpu", "ray"]


def pip(*arguments: str | pathlib.Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Built offline with the installed setuptools, from a copy, as setuptools leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in [*SOURCES, *(path.name for path in ROOT.glob("requirements*.txt"))]:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the installation."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel)
    return folder


@pytest.fixture
def work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, installed: pathlib.Path) -> pathlib.Path:
    """A working folder outside the checkout; processes see only the installed package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("PATH", f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def tganv2(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(["tganv2", *arguments], capture_output=True, text=True, timeout=300)
    assert result.returncode == status, result.stdout + result.stderr
    return result


def test_the_wheel_holds_the_package_and_nothing_else(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for top in SOURCES[3:5] for path in (ROOT / top).rglob("*.py")}
    recipes = {f"tganv2_tf/recipes/{path.name}" for path in (ROOT / "flags").iterdir()}
    assert names == modules | recipes


@pytest.fixture(scope="module")
def metadata(wheel: pathlib.Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


def test_the_metadata_has_both_lanes_and_the_extras(metadata: email.message.Message) -> None:
    assert metadata["Requires-Python"] == "<3.14,>=3.9"
    assert metadata.get_all("Provides-Extra") is not None and sorted(metadata.get_all("Provides-Extra", [])) == EXTRAS
    told = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]

    def of(extra: str, python: str) -> set[str]:
        environment = {"python_version": python, "extra": extra, "sys_platform": "linux"}
        return {
            f"{each.name}{sorted(each.extras)}{each.specifier}"
            for each in told
            if each.marker is None or each.marker.evaluate(environment)
        }

    for name in ["", *EXTRAS]:
        file = ROOT / (f"requirements-{name}.txt" if name else "requirements.txt")
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        for python in ("3.9", "3.11", "3.12", "3.13"):
            wanted = {
                f"{each.name}{sorted(each.extras)}{each.specifier}"
                for each in map(Requirement, lines)
                if each.marker is None or each.marker.evaluate({"python_version": python, "sys_platform": "linux"})
            }
            assert of(name, python) - (of("", python) if name else set()) == wanted, (name, python)


def test_it_is_the_installed_package_that_runs(work: pathlib.Path, installed: pathlib.Path) -> None:
    script = (
        "import tganv2_tf, data_prep\nfrom tganv2_tf.cli import flag_files\n"
        "from tganv2_tf.runtime import lanes, machine\n"
        "print(tganv2_tf.__file__, data_prep.__file__, flag_files.FLAGS_DIR, sep='\\n')\n"
        "print(lanes.install_command('explore'), lanes.install_command(), sep='\\n')\n"
        "print([pin for pin in machine.pins() if pin.name == 'tensorflow'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    *paths, extra, base, pins = result.stdout.splitlines()
    package = installed / "tganv2_tf"
    assert paths == [str(package / "__init__.py"), str(installed / "data_prep/__init__.py"), str(package / "recipes")]
    assert extra.startswith("pip install '.[explore]' in the checkout") and base.startswith("pip install '.' in the")
    version = lanes.TESTED[sys.version_info >= (3, 12)]
    assert pins.count("Pin(") == 1 and f"name='tensorflow', pinned='{version}." in pins


def test_the_console_command_lists_and_runs_all_commands(work: pathlib.Path) -> None:
    listed = tganv2().stdout
    assert listed == tganv2("--help").stdout
    assert re.search(r"^  tganv2_tf\.train +Trains TGANv2", listed, re.MULTILINE)
    assert re.search(r"^  data_prep\.ucf101 ", listed, re.MULTILINE)
    assert "benchmarks" not in listed and "Measure" not in listed
    result = subprocess.run([sys.executable, "-m", "tganv2_tf"], capture_output=True, text=True)
    assert result.stdout == listed
    assert tganv2("train", "--help").stdout.startswith("Trains TGANv2")
    wrong = tganv2("trian", status=2)
    assert (wrong.stdout, wrong.stderr) == ("", "tganv2: 'trian' is not a command; did you mean train?\n")
    wrong = tganv2("train", "--flagfile=demo.flags", "--resolutoin=32", status=2)
    assert wrong.stderr == "train: --resolutoin: no such flag; did you mean --resolution?\n"


def test_recipes_come_with_it_and_a_copy_in_the_working_folder_wins(work: pathlib.Path) -> None:
    few = ["--lstm_channels=4", "--up_channels=4,4,4,4,4,4", "--discriminator_channels=4,4,4,4,4"]
    dry = tganv2("train", "--flagfile=ucf.flags", *few, "--dry_run").stdout
    assert "192x192" in dry
    (work / "mine.flags").write_text("--flagfile=own_videos.flags\n--resolution=64\n")
    assert '"resolution": 64' in tganv2("train", "--flagfile=mine.flags", "--print_config").stdout
    shutil.copy(work / "mine.flags", work / "ucf.flags")
    assert '"resolution": 64' in tganv2("train", "--flagfile=ucf.flags", "--print_config").stdout


def test_generate_and_the_python_interface(work: pathlib.Path) -> None:
    shutil.copytree(ROOT / "examples" / "demo_generator", work / "run")
    tganv2("generate", "--model_dir=run", "--seeds=3,4", "--labels=CircleLeft", "--output=samples.npz")
    script = (
        "import sys, tganv2_tf, numpy as np\n"
        "assert 'tensorflow' not in sys.modules\n"
        "videos = tganv2_tf.load('run').videos(seeds=[3, 4], labels='CircleLeft')\n"
        "print(videos.shape, np.abs(videos.astype(int) - np.load('samples.npz')['videos']).max() <= 1)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "(2, 16, 32, 32, 3) True\n", result.stderr


def test_preparations_start_their_workers(work: pathlib.Path) -> None:
    tganv2(
        "moving_shapes", "--output_dir=shapes", "--videos_per_class=2", "--num_frames=8", "--height=16", "--width=24"
    )
    folders = ["--video_dir=shapes/videos", "--split_dir=shapes/ucfTrainTestlist"]
    size = ["--resolution=16", "--min_frames=4", "--num_workers=2"]
    tganv2("ucf101", *folders, "--split=all", "--output_dir=data", *size)
    command = [sys.executable, "-m", "data_prep.ucf101", *folders, "--split=all", "--output_dir=again", *size]
    subprocess.run(command, check=True, capture_output=True)
    shards = {path.name: path.read_bytes() for path in (work / "data").glob("*.tfrecord*")}
    assert shards and shards == {path.name: path.read_bytes() for path in (work / "again").glob("*.tfrecord*")}
