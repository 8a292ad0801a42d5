"""What this machine and this Python have: pinned packages, memory, disk, processors, NVIDIA GPUs and their libraries.

TensorFlow is not imported here. What cannot be found out is None or empty, never an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import operator
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tganv2_tf import lanes

DRIVER_LIBRARY = "libcuda.so.1"
PROBE_SECONDS = 20
# oneDNN's names, and the flags of /proc/cpuinfo that each needs; the best first.
INSTRUCTION_SETS = {
    "AVX512_CORE_AMX": ("avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"),
    "AVX512_CORE_BF16": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"),
    "AVX512_CORE_VNNI": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"),
    "AVX512_CORE": ("avx512f", "avx512bw", "avx512vl", "avx512dq"),
    "AVX2_VNNI": ("avx2", "fma", "avx_vnni"),
    "AVX2": ("avx2", "fma"),
    "AVX": ("avx",),
    "SSE41": ("sse4_1",),
}
# Variables that restrict oneDNN (in TensorFlow and in PyTorch) and PyTorch's own kernels to older instructions.
INSTRUCTION_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


class Pin(NamedTuple):
    """A package, the version that the project was tested with, and the one that is installed; None where none is."""

    name: str
    pinned: str
    installed: str | None


class Gpu(NamedTuple):
    """An NVIDIA GPU: its name, its memory in bytes (None: unknown) and the driver's version (or nothing)."""

    name: str
    memory: int | None
    driver: str


class Memory(NamedTuple):
    """Main memory that this process may use, in bytes.

    Attributes:
      total: of the machine, or of the control group (a container) where that has less.
      available: now.
      is_limited: whether the control group says so.
    """

    total: int
    available: int
    is_limited: bool


def parse_pins(requirements: Iterable[str], python: tuple[int, int] = sys.version_info[:2]) -> dict[str, str]:
    """Name -> version of all lines `name==version` whose marker holds on a version of Python.

    Comments, other lines and the requirements of extras are left out.
    """
    pins = {}
    for line in requirements:
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[.*\])?\s*\(?==\s*([^\s)]+)", requirement)
        if match and "extra" not in marker and _holds(marker, python):
            pins[match[1]] = match[2]
    return pins


def _holds(marker: str, python: tuple[int, int]) -> bool:
    """Whether all comparisons of `python_version` in a marker are true; other variables are not looked at."""
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
    conditions = re.findall(r"""python_version\s*(<=?|>=?|==)\s*['"](\d+)\.(\d+)['"]""", marker)
    return all(compare[sign](python, (int(major), int(minor))) for sign, major, minor in conditions)


def pins() -> list[Pin]:
    """The requirements of this checkout, or else of the installed distribution; empty if there is neither."""
    lines: Iterable[str] = ()
    requirements = lanes.ROOT / f"requirements{'-current' if lanes.is_by_choice() else ''}.txt"
    if requirements.is_file():
        lines = requirements.read_text().splitlines()
    else:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines = importlib.metadata.requires(lanes.DISTRIBUTION) or ()
    return [Pin(name, pinned, installed_version(name)) for name, pinned in parse_pins(lines).items()]


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, which is not imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def instruction_set(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The best vector instructions of an x86 processor, as oneDNN names them; empty if they are not known."""
    found = re.search(r"^flags\s*:(.*)$", _read(cpuinfo), re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    known = (name for name, needed in INSTRUCTION_SETS.items() if flags.issuperset(needed))
    return next(known, "")


def withholds_avx512() -> bool:
    """Whether ONEDNN_MAX_CPU_ISA restricts oneDNN to instructions before AVX-512, which the processor has."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return instruction_set().startswith("AVX512") and limit in INSTRUCTION_SETS and not limit.startswith("AVX512")


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Model name, best vector instructions, and the limits that the environment sets to them."""
    name = re.search(r"^model name\s*: (.*)$", _read(cpuinfo), re.MULTILINE)
    limits = [f"{key}={os.environ[key]}" for key in INSTRUCTION_LIMITS if os.environ.get(key)]
    parts = [name[1].strip() if name else platform.machine(), instruction_set(cpuinfo), *limits]
    return ", ".join(filter(None, parts))


def num_cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(root: str = "/") -> Memory | None:
    """Main memory, as Linux tells it under `root`/proc and `root`/sys/fs/cgroup."""
    of_machine = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", _read(f"{root}/proc/meminfo"), re.MULTILINE))
    if len(of_machine) < 2:
        return None
    total, available = (1024 * int(of_machine[key]) for key in ("MemTotal", "MemAvailable"))
    limited = False
    for limit, used in _cgroup_limits(root):
        if limit < total:
            total, limited = limit, True
        available = min(available, max(limit - used, 0))
    return Memory(total, available, limited)


def _cgroup_limits(root: str) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of this process's control group and of all above it, in both versions."""
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0":
            folder, limit_file, used_file = f"{root}/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            folder, limit_file, used_file = (
                f"{root}/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        # In a container the path may be that of the host, of which only the root is to be seen.
        for parent in (pathlib.PurePosixPath(group), *pathlib.PurePosixPath(group).parents):
            limit, used = (_read(f"{folder}/{parent}/{name}").strip() for name in (limit_file, used_file))
            if limit.isdigit() and used.isdigit():
                yield int(limit), int(used)


def free_disk(folder: str) -> tuple[pathlib.Path, int]:
    """The part of a folder's path that exists, and the bytes that are free there.

    Raises:
      OSError: it cannot be looked at.
    """
    path = pathlib.Path(folder or ".").absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return existing, shutil.disk_usage(existing).free


def nvidia_gpus() -> list[Gpu]:
    """GPUs that the driver knows, or, without its tool, that are to be seen on the bus."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    gpus = []
    for line in _output(query).splitlines():
        name, memory_mib, driver = (part.strip() for part in line.rsplit(",", 2))
        gpus.append(Gpu(name, int(memory_mib) * 2**20 if memory_mib.isdigit() else None, driver))
    if gpus:
        return gpus
    information = sorted(pathlib.Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [re.search(r"Model:\s*(.+)", _read(str(file))) for file in information]
    if information:
        return [Gpu(name[1].strip() if name else "an NVIDIA GPU", None, "") for name in names]
    on_bus = [line for line in _output(["lspci"]).splitlines() if re.search(r"(VGA|3D|Display).*NVIDIA", line)]
    return [Gpu(line.split(": ", 1)[-1], None, "") for line in on_bus]


def missing_libraries(names: Iterable[str]) -> list[str]:
    """Those that can be loaded neither from the system's folders nor from NVIDIA's Python packages."""
    folders = [pathlib.Path(entry) / "nvidia" for entry in sys.path if entry]
    wheels = {file.name: file for folder in folders for file in folder.glob("*/lib/lib*.so.*")}
    return [name for name in names if not (_loads(name) or (name in wheels and _loads(str(wheels[name]))))]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    """What a program prints; nothing where it is missing, fails or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
