"""Checks the machine, the installation, the data and the run's folder, and advises what to change.

python -m tganv2_tf.doctor
python -m tganv2_tf.doctor --flagfile=demo.flags --data_dir=demo/data/train --model_dir=demo/run
python -m tganv2_tf.doctor --flagfile=ucf.flags --data_dir=data/ucf101/train --global_batch_size=16

It accepts the flags of tganv2_tf.train. Each line begins with OK, NOTE (worth knowing) or PROBLEM (the run would not
start, or would fail later). The exit status is 1 if there is a PROBLEM, else 0. With a recipe, the memory and time of a
step are computed from the networks' graph, which takes about ten seconds, and compared with this machine. Nothing is
trained.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tganv2_tf import cli_flags, lanes, machine
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.data.advice import how_to_make, preparation
from tganv2_tf.data.lengths import describe_too_short
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import InstallError, UserError

if TYPE_CHECKING:
    from tganv2_tf.training.cost import StepCost

OK, NOTE, PROBLEM = "OK", "NOTE", "PROBLEM"
COMFORT = 0.85  # fraction of the memory above which a NOTE is given
LONG_RUN = 30 * 86400  # seconds
NOT_IMPORTED = {"setuptools", "tensorboard-plugin-profile", "tensorflow-io"}  # training does not need them
SLIM_IMAGES = "on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"


class Finding(NamedTuple):
    """One line of the report: severity (OK, NOTE or PROBLEM), subject, and finding with advice."""

    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8}{self.subject}: {self.text}"


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


def in_bytes(size: float) -> str:
    """Formats bytes: `1.5 GiB`, `12 MiB`."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Formats seconds: `0.25 s`, `3.5 minutes`, `7 hours`, `12 days`."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


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
        yield Finding(
            NOTE, "packages", "neither requirements.txt nor the installed distribution tells which are needed"
        )
    yield check_processor()
    try:
        import cv2

        import tganv2_tf.decoding  # noqa: F401
    except ImportError as error:
        yield Finding(PROBLEM, "OpenCV", f"does not load: {error}; {SLIM_IMAGES}")
    else:
        yield Finding(OK, "OpenCV", cv2.__version__)
    try:
        import imageio_ffmpeg

        yield Finding(OK, "ffmpeg", f"{imageio_ffmpeg.get_ffmpeg_version()}, of imageio-ffmpeg")
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
        return Finding(PROBLEM, "processor", "no AVX, without which TensorFlow's packages cannot run; use another")
    text = f"{name}; oneDNN is {'on' if enabled else 'off'} ({choice})"
    if enabled:
        return Finding(OK, "processor", text)
    slower = f"a training step takes several times as long on processors without AVX-512; unset {lanes.ONEDNN}"
    return Finding(NOTE, "processor", f"{text}: {slower}")


def check_memory(memory: machine.Memory | None) -> Finding:
    """Reports main memory and processors."""
    cpus = f"{machine.num_cpus()} processors"
    if memory is None:
        return Finding(NOTE, "machine", f"{cpus}; how much memory there is cannot be found out")
    source = ", by its control group's limit" if memory.is_limited else ""
    return Finding(
        OK, "machine", f"{cpus}, {in_bytes(memory.total)} of memory{source}, {in_bytes(memory.available)} of it free"
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
    text = f"{in_bytes(free)} free at {existing}"
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding(PROBLEM, flag, f"{existing} is no folder that can be written; choose another")
    if free < needed:
        return Finding(PROBLEM, flag, f"{text}, and checkpoints need {in_bytes(needed)}; choose another or free some")
    if free < wanted:
        advice = "raise --keep_checkpoint_every_steps, or free some"
        return Finding(NOTE, flag, f"{text}, and all checkpoints of the run will take {in_bytes(wanted)}; {advice}")
    return Finding(OK, flag, text + (f"; checkpoints will take {in_bytes(max(needed, wanted))}" if needed else ""))


def check_shards(model: ModelConfig, data: DataConfig) -> tuple[Finding, Manifest | None]:
    """Describes the data set and checks the sizes of its files. Their contents are not read."""
    command = preparation(model, data)
    if not data.data_dir:
        return Finding(NOTE, "data", f"no --data_dir was given; {how_to_make('SHARDS', command)}"), None
    try:
        manifest = Manifest.read(data.data_dir, command)
    except UserError as error:
        return Finding(PROBLEM, "data", str(error)), None
    size = sum(shard.bytes for shard in manifest.shards)
    text = (
        f"{manifest.name}, {manifest.split}: {manifest.num_videos} videos, {len(manifest.labels)} labels, "
        f"{manifest.width}x{manifest.height} pixels, {manifest.num_shards} shards, {in_bytes(size)}"
    )
    faults = [f"{file}: {fault}" for file, fault in manifest.faults(data.data_dir).items()]
    if faults:
        level, advice = (NOTE, "") if data.skip_corrupt_records else (PROBLEM, "; copy or prepare the data set again")
        return Finding(level, "data", f"{text}; {len(faults)} are damaged, the first {faults[0]}{advice}"), manifest
    verify = f"`python -m data_prep.verify --data_dir={data.data_dir}` reads them"
    return Finding(OK, "data", f"{text}; all have the right size; {verify}"), manifest


def check_lengths(config: Config, manifest: Manifest) -> Iterator[Finding]:
    """Reports videos that are too short for a clip."""
    said = describe_too_short(manifest, config.data, config.model.num_frames)
    if said:
        yield Finding(NOTE, "data", said)


def check_classes(manifest: Manifest, conditional: bool) -> Iterator[Finding]:
    """Reports classes without videos."""
    if manifest.empty_classes:
        learns = "; a conditional model learns nothing about them" if conditional else ""
        yield Finding(NOTE, "classes", f"{manifest.empty_classes}{learns}")


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

    there, seen = machine.nvidia_gpus(), tf.config.list_physical_devices("GPU")
    if seen:
        sizes = [gpu.memory for gpu in there if gpu.memory is not None]
        names = [str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)) for gpu in seen]
        device = Device("GPU", len(seen), names[0], min(sizes, default=None))
        unused = f", of {len(there)} that the driver knows" if len(there) > len(seen) else ""
        return Finding(OK, "devices", f"{len(seen)} GPUs{unused}: {', '.join(names)}"), device
    device = Device("CPU", 1, f"{machine.num_cpus()} processors", memory.available if memory else None)
    if not there:
        return Finding(OK, "devices", f"no NVIDIA GPU; the CPU, with {device.name}"), device
    return Finding(
        NOTE, "devices", f"{there[0].name} is there, but TensorFlow does not see it: {_why_no_gpu()}"
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
    return f"all libraries load; look at nvidia-smi for {driver} and other programs on the GPU"


def verdict(needed: float, available: float | None) -> str:
    """Returns OK, NOTE if little memory will be left, or PROBLEM if it does not suffice."""
    if available is None or needed <= COMFORT * available:
        return OK
    return NOTE if needed <= available else PROBLEM


def what_would_fit(
    config: Config,
    replicas: int,
    cost: StepCost,
    least: StepCost,
    room: Callable[[int], float],
    recomputed: StepCost | None = None,
) -> str:
    """Advises which flags to change if a step needs too much memory.

    Args:
      config: the run.
      replicas: number of devices that share the batch.
      cost: cost of a step per replica.
      least: the same with the smallest possible batch.
      room: maps the global batch size to the available bytes per device.
      recomputed: as `cost`, with --recompute; None if that is already set.
    """
    from tganv2_tf.training.cost import MEMORY_OVERHEAD

    train, unit = config.train, config.model.pyramid.levels[-1].clip_stride
    parts = train.gradient_accumulation_steps
    clips = train.global_batch_size // replicas // parts  # processed at once
    a_clip = (cost.device_bytes - least.device_bytes) / max(1, clips - unit)
    now = room(train.global_batch_size)

    def taken(number: int) -> float:
        return least.device_bytes + (number - unit) * a_clip

    # The first split also needs memory for the sum of the gradients.
    sum_so_far = MEMORY_OVERHEAD * cost.trained_bytes if parts == 1 else 0
    ways = ["--recompute"] if recomputed and recomputed.device_bytes <= now else []
    ways += [
        f"--gradient_accumulation_steps={parts * split}"
        for split in range(2, clips // unit + 1)
        if clips % (split * unit) == 0 and taken(clips // split) + sum_so_far <= now
    ][:1]
    batches = ((number, number * parts * replicas) for number in range(clips - unit, 0, -unit))
    largest = next((batch for number, batch in batches if taken(number) <= room(batch)), None)
    ways += [f"--global_batch_size={largest}"] if largest else []
    if ways:
        return " or ".join(ways) + " would fit"
    return "no batch would fit; take narrower networks, a lower --resolution, or a machine with more memory"


def check_memory_of_run(
    config: Config,
    device: Device,
    cost: StepCost,
    pipeline: Callable[[int], int],
    host: int | None,
    step_cost: Callable[[Config, int], StepCost],
) -> Iterator[Finding]:
    """Checks the memory of a training step and of the input pipeline.

    Args:
      config: the run.
      device: devices for training.
      cost: cost of a step per replica.
      pipeline: maps the global batch size to the input pipeline's bytes of main memory.
      host: available bytes of main memory; None if unknown.
      step_cost: computes the cost of a step from a config and the clips per replica; called only if memory is short.
    """
    from tganv2_tf.training.cost import PROCESS_BYTES

    train, available_here = config.train, (math.inf if host is None else host) * COMFORT
    unit = config.model.pyramid.levels[-1].clip_stride * train.gradient_accumulation_steps  # clips per replica

    def beside(batch: int) -> int:
        return PROCESS_BYTES + pipeline(batch)

    input_bytes, fed = pipeline(train.global_batch_size), beside(train.global_batch_size)
    step = f"networks and Adam {in_bytes(cost.state_bytes)}, the step {in_bytes(cost.device_bytes - cost.state_bytes)}"
    process = f"input {in_bytes(input_bytes)}, the process itself {in_bytes(PROCESS_BYTES)}"
    if device.kind == "CPU":
        subject, needed, available, detail = "memory", fed + cost.device_bytes, host, f"{step}, {process}"
    else:
        subject, needed, available, detail = "memory of a GPU", cost.device_bytes, device.memory, step
        level, advice = verdict(fed, host), ""
        if level != OK:
            smaller = range(train.global_batch_size - unit * device.count, 0, -unit * device.count)
            largest = next((batch for batch in smaller if beside(batch) <= available_here), None)
            advice = f"; --global_batch_size={largest} would fit, or" if largest else ";"
            advice += f" lower --shuffle_buffer={config.data.shuffle_buffer}"
        yield Finding(level, "main memory", f"{_share(fed, host)}: {process}{advice}")
    level, advice = verdict(needed, available), ""
    if level != OK:

        def room(batch: int) -> float:
            on_device = (math.inf if device.memory is None else device.memory) * COMFORT
            return available_here - beside(batch) if device.kind == "CPU" else on_device

        recomputed = None
        if not train.recompute:
            recomputing = dataclasses.replace(config, train=dataclasses.replace(train, recompute=True))
            recomputed = step_cost(recomputing, train.global_batch_size // device.count)
        fits = what_would_fit(config, device.count, cost, step_cost(config, unit), room, recomputed)
        advice = f"; {fits}"
        if device.kind == "GPU" and train.mixed_precision == "float32":
            advice += "; --mixed_precision=mixed_float16 stores most activations in half of the bytes"
    yield Finding(level, subject, f"{_share(needed, available)}: {detail}{advice}")


def _share(needed: float, available: float | None) -> str:
    return f"about {in_bytes(needed)} at the peak" + (
        f" of {in_bytes(available)} free" if available is not None else ""
    )


def check_time(config: Config, device: Device, cost: StepCost, throughput: float) -> Finding:
    """Estimates the time of a step and of the run from `throughput`, the measured multiply-adds per second."""
    step = cost.seconds(throughput)
    whole = step * config.train.train_steps
    text = (
        f"about {duration(step)} a step, {duration(whole)} for --train_steps={config.train.train_steps}, reckoned from "
        f"{throughput / 1e9:.0f} billion multiply-adds a second, measured on this {device.kind} just now"
    )
    if whole <= LONG_RUN:
        return Finding(OK, "time", text)
    advice = (
        "a GPU, or a smaller recipe (--flagfile=own_videos.flags, demo.flags)" if device.kind == "CPU" else "more GPUs"
    )
    return Finding(NOTE, "time", f"{text}; what helps: {advice}, --r1_every_steps=16")


def check_run_folder(config: Config, class_names: Sequence[str] = ()) -> Finding:
    """Checks whether the run can start or resume in its folder with these classes (if known)."""
    from tganv2_tf.runs import latest_checkpoint
    from tganv2_tf.training.classes import check_classes
    from tganv2_tf.training.compatibility import check_run

    try:
        if class_names:
            check_classes(config, class_names)
        changes = check_run(config)
    except UserError as error:
        return Finding(PROBLEM, "run", str(error))
    folder = config.train.model_dir
    newest = latest_checkpoint(folder) if folder else None
    if newest is None:
        return Finding(OK, "run", "a new one")
    changed = f"; changed: {', '.join(changes)}" if changes else ""
    return Finding(OK, "run", f"goes on from {newest}{changed}")


def examine(config: Config, has_recipe: bool) -> Iterator[Finding]:
    """Runs all checks, the fast ones first.

    Args:
      config: the run.
      has_recipe: whether model and training were configured, so that their cost is estimated.
    """
    yield from check_versions()
    memory = machine.memory()
    yield check_memory(memory)
    shards, manifest = check_shards(config.model, config.data)
    yield shards
    if manifest is not None:
        yield from check_classes(manifest, config.model.conditional)
    tensorflow = check_tensorflow()
    yield tensorflow
    if tensorflow.level == PROBLEM:
        return
    if manifest is not None and shards.level != PROBLEM:
        yield from check_lengths(config, manifest)
    devices, device = check_devices(memory)
    yield devices
    if has_recipe:
        yield from check_recipe(config, manifest if shards.level != PROBLEM else None, device, memory)
    else:
        yield check_folder("--model_dir", config.train.model_dir)
        yield Finding(
            OK, "run", "no recipe was given; with --flagfile=demo.flags, for example, it is held against this machine"
        )


def check_recipe(
    config: Config, manifest: Manifest | None, device: Device, memory: machine.Memory | None
) -> Iterator[Finding]:
    """Checks whether the data match the recipe, and whether the machine can run it, given the cost of a step."""
    from tganv2_tf.data.pipeline import load_manifest
    from tganv2_tf.training import cost
    from tganv2_tf.training.distribution import per_replica_batch_size
    from tganv2_tf.training.loop import with_classes

    if config.train.distribution == "one_device":
        device = dataclasses.replace(device, count=1)
    elif config.train.distribution in ("multi_worker", "ray"):
        yield Finding(NOTE, "recipe", "reckoned as if this machine trained alone, with the whole batch")
    try:
        if manifest is not None:
            config = with_classes(config, load_manifest(config.model, config.data))
        share = per_replica_batch_size(config, device.count)
    except UserError as error:
        yield Finding(PROBLEM, "recipe", str(error))
        return
    yield check_run_folder(config, manifest.labels if manifest else ())
    if config.model.conditional and not config.model.num_classes:
        yield Finding(NOTE, "recipe", "what fits depends on the classes: give --data_dir or --num_classes")
        return
    step, train = cost.step_cost(config, share), config.train
    snapshots = train.train_steps // train.keep_checkpoint_every_steps if train.keep_checkpoint_every_steps else 0
    newest = (train.keep_checkpoints + 1) * step.state_bytes  # a new one is written before the oldest is deleted
    yield check_folder("--model_dir", train.model_dir, newest, newest + snapshots * step.state_bytes)
    host = memory.available if memory else None

    def pipeline(batch_size: int) -> int:
        return 0 if manifest is None else cost.pipeline_bytes(config, manifest, batch_size)

    yield from check_memory_of_run(config, device, step, pipeline, host, cost.step_cost)
    throughput = cost.measure_throughput(device.kind, train.mixed_precision.removeprefix("mixed_"))
    yield check_time(config, device, step, throughput)


def main(model: ModelConfig, data: DataConfig, train: TrainConfig, eval: EvalConfig) -> int:
    config = Config(model, data, train, eval)
    has_recipe = (model, dataclasses.replace(train, model_dir="")) != (ModelConfig(), TrainConfig())
    num_problems = 0
    for finding in examine(config, has_recipe):
        print(finding, flush=True)
        num_problems += finding.level == PROBLEM
    if num_problems:
        print(f"{num_problems} PROBLEM{'S' if num_problems > 1 else ''}")
    return 1 if num_problems else 0


if __name__ == "__main__":
    options = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
    sys.exit(cli_flags.run(main, options, "tganv2_tf.doctor", __doc__))
