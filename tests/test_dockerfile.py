"""The Dockerfile, which no engine builds here: the files that it copies, and its shell commands with a fake pip."""

from __future__ import annotations

import fnmatch
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tganv2_tf.runtime import lanes

TEXT = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [
    tuple(line.split(None, 1))
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line
]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def copied() -> list[str]:
    return [source for rest in arguments("COPY") for source in rest.split()[:-1]]


def test_the_instructions_are_those_of_a_dockerfile() -> None:
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in INSTRUCTIONS} == known
    assert [name for name, _ in INSTRUCTIONS[:2]] == ["ARG", "FROM"]
    assert "has not been built yet" in TEXT


def test_what_it_copies_is_there_and_reaches_the_build() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in copied():
        assert (ROOT / path).exists(), path
        assert any(fnmatch.fnmatch(path, pattern) for pattern in let_in), f"{path} is left out by .dockerignore"
    assert all(fnmatch.filter(copied(), pattern) for pattern in let_in)


def test_the_package_is_built_from_all_that_pyproject_names() -> None:
    project = (ROOT / "pyproject.toml").read_text().split("[tool.ruff]")[0]
    files = re.findall(r'file = \["(.+?)"\]', project) + re.findall(r'^readme = "(.+)"', project, re.MULTILINE)
    assert len(files) == 6
    assert {*files, "LICENSE", "pyproject.toml", "tganv2_tf", "data_prep", "flags"} <= set(copied())


def test_it_ends_as_another_user_with_the_console_command() -> None:
    assert arguments("USER") == ["1000"]
    assert INSTRUCTIONS.index(("USER", "1000")) > max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "RUN")
    assert (arguments("ENTRYPOINT"), arguments("CMD")) == (['["tganv2"]'], ['["--help"]'])
    (python,) = (re.fullmatch(r"PYTHON_VERSION=3\.(\d+)", rest) for rest in arguments("ARG")[:1])
    assert python and not lanes.python_fault((3, int(python[1])))


@pytest.mark.parametrize("extras", ["", "gpu", "gpu ray"])
def test_it_installs_what_the_documents_say(extras: str, tmp_path: pathlib.Path) -> None:
    """Runs both installations in a shell with a pip that prints its arguments."""
    (tmp_path / "pip").write_text('#!/bin/sh\necho "pip $@"\n')
    (tmp_path / "pip").chmod(0o755)
    scripts = [rest for rest in arguments("RUN") if "pip install" in rest]
    said = []
    for script in scripts:
        environment = {"PATH": f"{tmp_path}{os.pathsep}/bin", "EXTRAS": extras}
        shell = [shutil.which("sh") or "sh", "-euc", script]
        said.append(subprocess.run(shell, env=environment, capture_output=True, text=True, check=True).stdout)
    files = "".join(f" -r requirements-{extra}.txt" for extra in extras.split())
    assert said == [
        f"pip install --no-cache-dir -r requirements.txt{files} -c constraints.txt\n",
        "pip install --no-cache-dir --no-deps .\n",
    ]
    assert "pip install -r requirements.txt -c constraints.txt" in (ROOT / "README.md").read_text()


def test_each_extra_has_a_file() -> None:
    (named,) = re.findall(r"EXTRAS are any of (.+?);", TEXT)
    for extra in re.split(r", | and ", named):
        assert f"requirements-{extra}.txt" in copied()
    assert "examples/kubernetes needs gpu and ray" in TEXT
