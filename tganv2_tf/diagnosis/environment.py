"""Versions, processor, memory, disk and devices of this machine."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Iterator

from tganv2_tf.diagnosis.findings import NOTE, OK, PROBLEM, Finding, format_bytes
from tganv2_tf.errors import InstallError
from tganv2_tf.runtime import lanes, machine

NOT_IMPORTED = {"setuptools", "tensorboard-plugin-profile", "tensorflow-io"}  # training does not need them
SLIM_IMAGES = "on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"


@dataclasses.dataclass(frozen=True)
class Device:
    """The devices used for training.

    Attributes:
      kind: CPU or GPU.
      count: number of replicas.
      name: readable name.
      memory: available bytes per device; None if unknown.
    """

    kind: str
    count: int
    name: str
    memory: int | None


def check_versions() -> Iterator[Finding]:
    """Checks Python, the lane, the pinned packages, OpenCV, ffmpeg, and whether the processor supports TensorFlow."""
    fault, install = lanes.python_fault(), lanes.install_command()
    advice = f"; {fault}" if fault else ""
    yield Finding(PROBLEM if fault else OK, "Python", f"{platform.python_version()} at {sys.executable}{advice}")
    yield check_lane()
    pins = machine.pins()
    for pin in pins:
        if pin.installed is None:
            level = NOTE if pin.name in NOT_IMPORTED else PROBLEM
            yield Finding(level, pin.name, f"not installed; {pin.pinned} is required: {install}")
        elif pin.installed != pin.pinned:
            yield Finding(NOTE, pin.name, f"{pin.installed}, but tested with {pin.pinned}: {install}")
    same = [f"{pin.name} {pin.pinned}" for pin in pins if pin.installed == pin.pinned]
    if same:
        yield Finding(OK, "packages", f"{len(same)} of {len(pins)} as pinned: {', '.join(same)}")
    if not pins:
        yield Finding(NOTE, "packages", "neither requirements.txt nor the installed distribution lists them")
    yield check_processor()
    try:
        import cv2

        import tganv2_tf.video_io.decoding  # noqa: F401
    except ImportError as error:
        yield Finding(PROBLEM, "OpenCV", f"does not load: {error}; {SLIM_IMAGES}")
    else:
        yield Finding(OK, "OpenCV", cv2.__version__)
    try:
        import imageio_ffmpeg

        yield Finding(OK, "ffmpeg", f"{imageio_ffmpeg.get_ffmpeg_version()}, from imageio-ffmpeg")
    except (ImportError, RuntimeError, OSError) as error:
        yield Finding(
            PROBLEM, "ffmpeg", f"{error}; no videos can be written: pip install --force-reinstall imageio-ffmpeg"
        )


def check_lane() -> Finding:
    """Reports the lane of the installed TensorFlow, and whether this version is tested."""
    version = lanes.tensorflow_version()
    if lanes.tensorflow_fault():
        return Finding(PROBLEM, "lane", lanes.tensorflow_fault())
    if lanes.is_tested(version):
        return Finding(OK, "lane", f"{lanes.name()}, TensorFlow {version}")
    tested = " and ".join(lanes.TESTED)
    return Finding(NOTE, "lane", f"{lanes.name()}; TensorFlow {version} is not tested, {tested} are")


def check_processor() -> Finding:
    """Reports the processor's vector instructions, and whether oneDNN, which uses them, is enabled."""
    instructions, name = machine.instruction_set(), machine.processor()
    enabled, choice = lanes.onednn_state()
    if not instructions:  # not an x86 processor
        return Finding(OK, "processor", f"{name}; oneDNN: {choice}")
    if instructions == "SSE41":
        return Finding(PROBLEM, "processor", "no AVX, which TensorFlow's packages require; use another machine")
    text = f"{name}; oneDNN is {'on' if enabled else 'off'} ({choice})"
    if enabled:
        return Finding(OK, "processor", text)
    slower = f"a training step takes several times as long on processors without AVX-512; unset {lanes.ONEDNN}"
    return Finding(NOTE, "processor", f"{text}: {slower}")


def check_memory(memory: machine.Memory | None) -> Finding:
    """Reports main memory and processors."""
    cpus = f"{machine.num_cpus()} processors"
    if memory is None:
        return Finding(NOTE, "machine", f"{cpus}; the amount of memory is unknown")
    source = " (control group limit)" if memory.is_limited else ""
    return Finding(
        OK, "machine", f"{cpus}, {format_bytes(memory.total)} of memory{source}, {format_bytes(memory.available)} free"
    )


def check_folder(flag: str, folder: str, needed: float = 0, wanted: float = 0) -> Finding:
    """Checks the free space in a folder to be written, or in its nearest existing parent.

    Args:
      flag: flag of the folder.
      folder: its path; empty for the current folder.
      needed: bytes that the run needs at least.
      wanted: bytes that all its files will take.
    """
    try:
        existing, free = machine.free_disk(folder)
    except OSError as error:
        return Finding(PROBLEM, flag, f"{folder}: {error.strerror}")
    text = f"{format_bytes(free)} free at {existing}"
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding(PROBLEM, flag, f"{existing} is not a writable folder; choose another")
    if free < needed:
        return Finding(
            PROBLEM, flag, f"{text}, and checkpoints need {format_bytes(needed)}; free some or choose another"
        )
    if free < wanted:
        advice = "raise --keep_checkpoint_every_steps, or free some"
        return Finding(NOTE, flag, f"{text}, and all checkpoints of the run will take {format_bytes(wanted)}; {advice}")
    return Finding(OK, flag, text + (f"; checkpoints will take {format_bytes(max(needed, wanted))}" if needed else ""))


def check_tensorflow() -> Finding:
    """Imports TensorFlow and reports its build."""
    try:
        import tensorflow as tf
    except InstallError as error:
        return Finding(PROBLEM, "TensorFlow", str(error))
    except (ImportError, AttributeError, TypeError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        install = lanes.install_command()
        return Finding(PROBLEM, "TensorFlow", f"cannot be imported: {reason}; in a fresh environment: {install}")
    build = tf.sysconfig.get_build_info()
    cuda = "without CUDA"
    if build.get("is_cuda_build"):
        cuda = f"built for CUDA {build.get('cuda_version')} and cuDNN {build.get('cudnn_version')}"
    return Finding(OK, "TensorFlow", f"{tf.__version__}, {cuda}")


def check_devices(memory: machine.Memory | None) -> tuple[Finding, Device]:
    """Reports the devices for training, and why a GPU that exists is not used."""
    import tensorflow as tf

    driver_gpus, visible_gpus = machine.nvidia_gpus(), tf.config.list_physical_devices("GPU")
    if visible_gpus:
        sizes = [gpu.memory for gpu in driver_gpus if gpu.memory is not None]
        names = [
            str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)) for gpu in visible_gpus
        ]
        device = Device("GPU", len(visible_gpus), names[0], min(sizes, default=None))
        unused = f", of {len(driver_gpus)} known to the driver" if len(driver_gpus) > len(visible_gpus) else ""
        return Finding(OK, "devices", f"{len(visible_gpus)} GPUs{unused}: {', '.join(names)}"), device
    device = Device("CPU", 1, f"{machine.num_cpus()} processors", memory.available if memory else None)
    if not driver_gpus:
        return Finding(OK, "devices", f"no NVIDIA GPU; the CPU, with {device.name}"), device
    return Finding(
        NOTE, "devices", f"{driver_gpus[0].name} is installed, but TensorFlow does not see it: {_why_no_gpu()}"
    ), device


def _why_no_gpu() -> str:
    import tensorflow as tf

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible} hides it; unset it"
    if not tf.sysconfig.get_build_info().get("is_cuda_build"):
        return f"this TensorFlow was built without CUDA; {lanes.install_command()}"
    if machine.missing_libraries([machine.DRIVER_LIBRARY]):
        advice = f"install NVIDIA's driver, {lanes.MIN_GPU_DRIVER} or newer (in a container: --gpus all)"
        return f"the driver's {machine.DRIVER_LIBRARY} does not load; {advice}"
    missing = machine.missing_libraries(lanes.gpu_libraries())
    if missing:
        return f"{', '.join(missing)} cannot be loaded; {lanes.install_command('gpu')}"
    driver = f"the driver ({lanes.MIN_GPU_DRIVER} or newer)"
    return f"all libraries load; check {driver} and other programs on the GPU with nvidia-smi"
