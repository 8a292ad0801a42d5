"""Properties of this machine: installed packages, memory, disk, processors, NVIDIA GPUs and their libraries.

TensorFlow is not imported here. Unknown values are None or empty; they raise no errors.
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

from tganv2_tf.runtime import lanes

DRIVER_LIBRARY = "libcuda.so.1"
PROBE_SECONDS = 20
# oneDNN's names, best first, and the flags in /proc/cpuinfo that each requires.
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
# Environment variables that limit the instructions used by oneDNN (in TensorFlow and PyTorch) and PyTorch's kernels.
INSTRUCTION_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


class Pin(NamedTuple):
    """A package, the version it was tested with, and the installed version (None if not installed)."""

    name: str
    pinned: str
    installed: str | None


class Gpu(NamedTuple):
    """An NVIDIA GPU: name, memory in bytes (None if unknown), and version of the driver (empty if unknown)."""

    name: str
    memory: int | None
    driver: str


class Memory(NamedTuple):
    """Main memory that this process may use, in bytes.

    Attributes:
      total: memory of the machine, or the limit of its control group (container) if that is lower.
      available: currently available memory.
      is_limited: whether the control group sets the limit.
    """

    total: int
    available: int
    is_limited: bool


def parse_pins(requirements: Iterable[str], python: tuple[int, int] = sys.version_info[:2]) -> dict[str, str]:
    """Maps names to versions, for all lines `name==version` whose marker matches the Python version.

    Comments, other lines and the requirements of extras are ignored.
    """
    pins = {}
    for line in requirements:
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[.*\])?\s*\(?==\s*([^\s)]+)", requirement)
        if match and "extra" not in marker and _holds(marker, python):
            pins[match[1]] = match[2]
    return pins


def _holds(marker: str, python: tuple[int, int]) -> bool:
    """Returns whether all comparisons of `python_version` in a marker are true; other variables are ignored."""
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
    conditions = re.findall(r"""python_version\s*(<=?|>=?|==)\s*['"](\d+)\.(\d+)['"]""", marker)
    return all(compare[sign](python, (int(major), int(minor))) for sign, major, minor in conditions)


def pins() -> list[Pin]:
    """Returns the pins of this checkout, or else of the installed distribution; empty if there is neither."""
    lines: Iterable[str] = ()
    requirements = lanes.ROOT / f"requirements{'-current' if lanes.is_by_choice() else ''}.txt"
    if requirements.is_file():
        lines = requirements.read_text().splitlines()
    else:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines = importlib.metadata.requires(lanes.DISTRIBUTION) or ()
    return [Pin(name, pinned, installed_version(name)) for name, pinned in parse_pins(lines).items()]


def installed_version(name: str) -> str | None:
    """Returns the version of a distribution without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def instruction_set(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Returns the best vector instruction set of an x86 processor, in oneDNN's terms; empty if unknown."""
    flags = instructions(cpuinfo)
    known = (name for name, needed in INSTRUCTION_SETS.items() if flags.issuperset(needed))
    return next(known, "")


def instructions(cpuinfo: str = "/proc/cpuinfo") -> set[str]:
    """Returns the instruction set extensions of an x86 processor, in Linux' terms; none if unknown."""
    found = re.search(r"^flags\s*:(.*)$", _read(cpuinfo), re.MULTILINE)
    return set(found[1].split()) if found else set()


def withholds(dtype: str) -> bool:
    """Returns whether ONEDNN_MAX_CPU_ISA hides from oneDNN what the processor has for a 16-bit type.

    TensorFlow asks the processor, not oneDNN, and then crashes: in bfloat16 if AVX-512 is hidden, in float16 (2.21) if
    AVX512_FP16 is.

    Args:
      dtype: "bfloat16" or "float16".
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit not in INSTRUCTION_SETS:  # no limit, or one above those known here
        return False
    if dtype == "bfloat16":
        return instruction_set().startswith("AVX512") and not limit.startswith("AVX512")
    return "avx512_fp16" in instructions() and limit != "AVX512_CORE_AMX"


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Returns the processor's model name, best vector instructions, and their limits set in the environment."""
    name = re.search(r"^model name\s*: (.*)$", _read(cpuinfo), re.MULTILINE)
    limits = [f"{key}={os.environ[key]}" for key in INSTRUCTION_LIMITS if os.environ.get(key)]
    parts = [name[1].strip() if name else platform.machine(), instruction_set(cpuinfo), *limits]
    return ", ".join(filter(None, parts))


def num_cpus() -> int:
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(root: str = "/") -> Memory | None:
    """Returns the main memory, from Linux's `root`/proc and `root`/sys/fs/cgroup; None if unknown."""
    meminfo = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", _read(f"{root}/proc/meminfo"), re.MULTILINE))
    if len(meminfo) < 2:
        return None
    total, available = (1024 * int(meminfo[key]) for key in ("MemTotal", "MemAvailable"))
    limited = False
    for limit, used in _cgroup_limits(root):
        if limit < total:
            total, limited = limit, True
        available = min(available, max(limit - used, 0))
    return Memory(total, available, limited)


def _cgroup_limits(root: str) -> Iterator[tuple[int, int]]:
    """Yields (limit, used) in bytes for this process's control group and its parents, for cgroup v1 and v2."""
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
        # In a container the path may be the host's, of which only the root is visible.
        for parent in (pathlib.PurePosixPath(group), *pathlib.PurePosixPath(group).parents):
            limit, used = (_read(f"{folder}/{parent}/{name}").strip() for name in (limit_file, used_file))
            if limit.isdigit() and used.isdigit():
                yield int(limit), int(used)


def free_disk(folder: str) -> tuple[pathlib.Path, int]:
    """Returns the nearest existing parent of a path (or the path itself), and the bytes free there.

    Raises:
      OSError: the file system cannot be queried.
    """
    path = pathlib.Path(folder or ".").absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return existing, shutil.disk_usage(existing).free


def nvidia_gpus() -> list[Gpu]:
    """Lists the GPUs known to the driver; without nvidia-smi, those in /proc or on the PCI bus."""
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
    """Returns the libraries that can be loaded neither from the system nor from NVIDIA's Python packages."""
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
    """Returns a program's output; empty if it is missing, fails or times out."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
