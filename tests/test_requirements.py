"""Requirements and constraints: the same versions in both, for every supported version of Python."""

from __future__ import annotations

import re

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tganv2_tf.runtime import lanes

FILES = {path.name: path for path in ROOT.glob("requirements*.txt")}
PYTHONS = [f"{major}.{minor}" for (major, minor) in [(3, minor) for minor in range(9, 14)]]
BY_CHOICE = ["3.10", "3.11"]
CURRENT = Marker('python_version >= "3.12"')


def environment(python: str) -> dict[str, str]:
    """The platform for which constraints*.txt are made."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
    }


def lines(name: str) -> list[str]:
    text = (line.strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in text if line and not line.startswith("#")]


def requirements(name: str) -> list[Requirement]:
    return [Requirement(line) for line in lines(name)]


def versions(found: list[Requirement], python: str) -> dict[str, str]:
    """Returns the versions that apply to a version of Python, by name; no version for an unpinned requirement."""
    applying = [each for each in found if each.marker is None or each.marker.evaluate(environment(python))]
    names = [canonicalize_name(each.name) for each in applying]
    assert len(set(names)) == len(names), f"Python {python}: more than one version of a package"
    return {name: str(each.specifier).removeprefix("==") for name, each in zip(names, applying)}


def test_the_supported_versions_of_python_are_these() -> None:
    assert [f"{major}.{minor}" for major, minor in lanes.PYTHONS] == [PYTHONS[0], PYTHONS[-1]]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-current.txt"])
def test_every_constraint_is_one_version_with_a_marker(name: str) -> None:
    for line in lines(name):
        assert re.fullmatch(r"[\w.-]+==[\w.!+]+ ; \S.*", line), line
        assert Requirement(line).marker is not None


@pytest.mark.parametrize(
    ("constraints", "python"),
    [("constraints.txt", each) for each in PYTHONS] + [("constraints-current.txt", each) for each in BY_CHOICE],
)
def test_every_pin_is_in_the_constraints(constraints: str, python: str) -> None:
    base = "requirements-current.txt" if "current" in constraints else "requirements.txt"
    other = {"requirements.txt": "requirements-current.txt", "requirements-current.txt": "requirements.txt"}[base]
    locked = versions(requirements(constraints), python)
    for name in set(FILES) - {other}:
        for package, version in versions(requirements(name), python).items():
            assert package in locked, f"{name}: {package} is not in {constraints} for Python {python}"
            assert version in ("", locked[package]), f"{name}: {package} is {locked[package]} in {constraints}"


def test_extras_do_not_bring_the_base() -> None:
    for name in FILES:
        assert not [line for line in lines(name) if line.startswith("-")], f"{name}: setuptools reads it"


def test_the_current_lane_by_choice_is_that_of_newer_pythons() -> None:
    base = requirements("requirements.txt")
    common, current = [each for each in base if each.marker is None], [each for each in base if each.marker == CURRENT]
    assert common and current and len(common) + len(current) < len(base)
    chosen = requirements("requirements-current.txt")
    assert all(each.marker is None for each in chosen)
    wanted = {canonicalize_name(each.name): str(each.specifier) for each in common + current}
    assert {canonicalize_name(each.name): str(each.specifier) for each in chosen} == wanted


def test_the_lanes_take_the_tensorflow_that_is_tested() -> None:
    for python in PYTHONS:
        version = versions(requirements("requirements.txt"), python)["tensorflow"]
        assert lanes.is_tested(version)
        assert version.startswith(lanes.TESTED[python in ("3.12", "3.13")])
