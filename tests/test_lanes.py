"""Compatibility between lanes (checkpoints, exports, `config.json`), and version checks."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests import lane_files
from tests.conftest import ROOT
from tests.forking import fork_command
from tganv2_tf.runs import Run
from tganv2_tf.runtime import lanes
from tganv2_tf.sampling.sampler import load_sampler
from tganv2_tf.training import loop
from tganv2_tf.training.checkpoints import CheckpointFolder

TOLERANCE = 1e-5  # of values in [-1, 1]; processors and lanes differ in the last bits


@pytest.fixture(params=lane_files.LANES)
def written(request: pytest.FixtureRequest) -> pathlib.Path:
    """The files of a run in that lane."""
    return lane_files.FOLDER / request.param


@pytest.mark.parametrize("kind", ["run", "export"])
def test_generators_of_both_lanes_are_read_in_this_one(written: pathlib.Path, kind: str) -> None:
    folder = str(written / kind)
    sampler = load_sampler(folder) if kind == "run" else load_sampler(saved_model=folder)
    assert sampler.class_names == ("left", "right")
    videos = sampler.float_videos(sampler.latents(lane_files.SEEDS), labels=lane_files.LABELS)
    np.testing.assert_allclose(videos, np.load(written / "videos.npz")["videos"], rtol=0, atol=TOLERANCE)


def test_checkpoints_of_both_lanes_are_restored_to_the_bit(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Compares networks, averaged generator, optimizers, step and position in the data."""
    checkpoint = written / "run" / "checkpoints" / "ckpt-2"
    folder = CheckpointFolder(loop.make_model(Run.open(str(written / "run")).config), str(tmp_path))
    folder.restore(str(checkpoint))
    restored, expected = lane_files.variables(folder.save(2)), lane_files.variables(checkpoint)
    assert sorted(restored) == sorted(expected)
    for name, value in restored.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_runs_of_both_lanes_are_resumed_in_this_one(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run = shutil.copytree(written / "run", tmp_path / "run")

    def step_by_step(*command: str) -> subprocess.CompletedProcess[str]:
        return fork_command("tests.quickly", *command, "--preview_every_steps=0")

    assert "from step 2." in lane_files.train(tmp_path / "data", run, 3, step_by_step)
    after = lane_files.variables(run / "checkpoints" / "ckpt-3")
    assert after["step/.ATTRIBUTES/VARIABLE_VALUE"] == 3


@pytest.fixture(scope="module")
def without_this_package() -> subprocess.CompletedProcess[str]:
    """Loads exports with only TensorFlow, in the current lane with Keras 3; then imports this package."""
    program = f"""
import sys
import tensorflow as tf, numpy as np
z = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
for lane in {lane_files.LANES!r}:
    generate = tf.saved_model.load(f"{{lane}}/export").signatures["serving_default"]
    print(*generate(z=tf.constant(z), label=tf.constant([0, 1]))["videos"].numpy().flatten()[:12])
assert not any(name.startswith("tganv2_tf") for name in sys.modules)
sys.path.append({str(ROOT)!r})
import tganv2_tf
"""
    environment = {name: value for name, value in os.environ.items() if name not in (lanes.LEGACY_KERAS, "PYTHONPATH")}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=lane_files.FOLDER, env=environment, capture_output=True, text=True, timeout=120)


def test_exports_of_both_lanes_load_without_this_package(
    without_this_package: subprocess.CompletedProcess[str],
) -> None:
    lines = without_this_package.stdout.splitlines()
    assert len(lines) == len(lane_files.LANES), without_this_package.stderr
    z = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    for lane, line in zip(lane_files.LANES, lines):
        sampler = load_sampler(str(lane_files.FOLDER / lane / "run"))
        expected = sampler.render(z, labels=[0, 1]).flatten()[:12].astype(int)
        assert np.abs(np.array(line.split(), int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("version", "fault"),
    [((3, 8), True), ((3, 9), False), ((3, 11), False), ((3, 13), False), ((3, 14), True), ((4, 0), True)],
)
def test_python_versions(version: tuple[int, int], fault: bool) -> None:
    text = "tganv2_tf needs Python 3.9 to 3.13; this is Python {}.{}.".format(*version)
    assert lanes.python_fault(version) == (text if fault else "")


def with_tensorflow(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    """Fakes the version of the installed TensorFlow distribution; None: not installed."""

    def installed(name: str) -> str:
        if version is None or name != "tensorflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    lanes.tensorflow_version.cache_clear()


@pytest.fixture
def restored() -> object:
    """Clears the faked version after a test."""
    yield
    lanes.tensorflow_version.cache_clear()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("version", "legacy", "tested"),
    [("2.15.1", False, True), ("2.16.1", True, False), ("2.17.0+nv25.2", True, False), ("2.21.0", True, True)],
)
def test_tensorflow_versions(monkeypatch: pytest.MonkeyPatch, version: str, legacy: bool, tested: bool) -> None:
    with_tensorflow(monkeypatch, version)
    assert (lanes.has_legacy_keras(), lanes.is_tested(version)) == (legacy, tested)
    monkeypatch.setenv(lanes.LEGACY_KERAS, "1")
    monkeypatch.delenv(lanes.ONEDNN, raising=False)
    lanes.prepare()
    assert os.environ.get(lanes.LEGACY_KERAS) == ("1" if legacy else None)
    assert os.environ[lanes.ONEDNN] == "1"
    monkeypatch.setenv(lanes.ONEDNN, "0")  # set by the user
    lanes.prepare()
    assert os.environ[lanes.ONEDNN] == "0"


@pytest.mark.usefixtures("restored")
def test_what_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes.importlib.util, "find_spec", lambda name: None)
    faults = {None: "TensorFlow is not installed", "2.14.0": "is too old", "2.17.0": r"pip install 'tf_keras==2.17.*'"}
    for version, text in faults.items():
        with_tensorflow(monkeypatch, version)
        assert text in lanes.tensorflow_fault() and "\n" not in lanes.tensorflow_fault()
    with_tensorflow(monkeypatch, "2.15.1")
    assert lanes.tensorflow_fault() == ""


def test_install_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    suffix = "-current" if lanes.has_legacy_keras() and sys.version_info < (3, 12) else ""
    assert lanes.install_command() == f"pip install -r requirements{suffix}.txt -c constraints{suffix}.txt"
    assert lanes.install_command("ray") == f"pip install -r requirements-ray.txt -c constraints{suffix}.txt"
    for word in lanes.install_command("ray").split():
        assert not word.endswith(".txt") or (ROOT / word).is_file()
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    assert lanes.install_command("ray") == "pip install '.[ray]' in the checkout that tganv2-tf was installed from"


def test_keras_3_is_refused_in_one_line(without_this_package: subprocess.CompletedProcess[str]) -> None:
    assert without_this_package.returncode == lanes.has_legacy_keras(), without_this_package.stderr
    if lanes.has_legacy_keras():
        text = "ImportError: TensorFlow is already imported, with Keras 3 as tf.keras: import tganv2_tf first"
        assert without_this_package.stderr.splitlines()[-1].startswith(text)


def test_every_process_has_onednn() -> None:
    """Also for a benchmark, and for TensorFlow imported by a module of the package."""
    environment = {name: value for name, value in os.environ.items() if name not in (lanes.ONEDNN, lanes.LEGACY_KERAS)}
    for module in ("tganv2_tf.models.layers", "data_prep.options", "benchmarks.speed.rows"):
        program = f"import {module}, os; print(os.environ[{lanes.ONEDNN!r}], os.environ.get({lanes.LEGACY_KERAS!r}))"
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert result.stdout.split() == ["1", "1" if lanes.has_legacy_keras() else "None"], result.stderr


def test_without_the_requirements_there_is_one_line() -> None:
    program = [sys.executable, "-S", "-m", "data_prep.verify"]  # -S: no site-packages
    result = subprocess.run(program, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    text = "The requirements of tganv2_tf are not installed: pip install -r requirements.txt -c constraints.txt\n"
    assert (result.returncode, result.stderr) == (1, text)
