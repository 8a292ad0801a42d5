"""The doctor: hardware, memory and time of a step, and advice, compared with numbers derived by hand."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import types

import pytest
import tensorflow as tf

from tests.conftest import TINY_FLAGS, tiny_config
from tests.data_sets import write_data_set
from tganv2_tf import cli, doctor
from tganv2_tf.config import DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.diagnosis import recipe
from tganv2_tf.diagnosis.data_set import check_classes, check_shards
from tganv2_tf.diagnosis.environment import (
    Device,
    check_devices,
    check_folder,
    check_lane,
    check_memory,
    check_processor,
    check_versions,
)
from tganv2_tf.diagnosis.findings import NOTE, OK, PROBLEM, Finding, format_bytes, format_duration
from tganv2_tf.diagnosis.memory import check_memory_of_run, suggest_flags
from tganv2_tf.diagnosis.recipe import check_time, run_checks
from tganv2_tf.errors import ConfigError
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.runtime import lanes, machine
from tganv2_tf.runtime.machine import Gpu, Memory, Pin
from tganv2_tf.training import compatibility, cost
from tganv2_tf.training.cost import StepCost, step_cost

GIB = 2**30
RUN = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
TINY = [*TINY_FLAGS, "--global_batch_size=4"]


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def program(folder, name, script):
    """Writes a program that replaces one of the system's."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_pins_are_read_from_requirements_and_from_metadata():
    lines = [
        "# a comment",
        "",
        "tensorflow==2.15.1",
        "tensorflow[and-cuda]==2.15.1",
        "-r requirements.txt",
        "absl-py (==2.3.1) ; python_version < '4'",
        "gradio==6 ; extra == 'explore'",
        "pillow>=9",
    ]
    assert machine.parse_pins(lines) == {"tensorflow": "2.15.1", "absl-py": "2.3.1"}


def test_pins_of_other_versions_of_python_do_not_count():
    lines = [
        'numpy==1; python_version < "3.12"',
        "numpy==2 ; python_version >= '3.12'",
        'a==1; python_version == "3.9"',
        'b==1; python_version > "3.9" and python_version <= "3.12" and sys_platform == "linux"',
        "c==1 ; (python_version >= '3.10') and extra == 'ray'",
    ]
    assert machine.parse_pins(lines, (3, 9)) == {"numpy": "1", "a": "1"}
    assert machine.parse_pins(lines, (3, 10)) == {"numpy": "1", "b": "1"}, "3.10 is more than 3.9"
    assert machine.parse_pins(lines, (3, 12)) == {"numpy": "2", "b": "1"}
    assert machine.parse_pins(lines, (3, 13)) == {"numpy": "2"}


def test_pins_come_from_the_checkout_or_the_installed_distribution(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("numpy==1.0\nno-such-package==3\n")
    (tmp_path / "requirements-current.txt").write_text("numpy==2.0\n")
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    monkeypatch.setattr(lanes, "is_by_choice", lambda: False)
    numpy = machine.installed_version("numpy")
    assert numpy and machine.pins() == [Pin("numpy", "1.0", numpy), Pin("no-such-package", "3", None)]
    monkeypatch.setattr(lanes, "is_by_choice", lambda: True)
    assert machine.pins() == [Pin("numpy", "2.0", numpy)]
    monkeypatch.setattr(lanes, "ROOT", tmp_path / "none")
    monkeypatch.setattr(lanes, "DISTRIBUTION", "no-such-distribution")
    assert machine.pins() == [], "neither"
    monkeypatch.setattr(lanes, "DISTRIBUTION", "imageio")
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda name: [f"{name}==1.5"])
    assert machine.pins() == [Pin("imageio", "1.5", machine.installed_version("imageio"))]


MEMINFO = f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {10 * 2**20} kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Memory(16 * GIB, 10 * GIB, False)),
        (  # version 2: the parent's limit applies
            {
                "proc/self/cgroup": "0::/box/job\n",
                "sys/fs/cgroup/box/job/memory.max": "max\n",
                "sys/fs/cgroup/box/job/memory.current": "5\n",
                "sys/fs/cgroup/box/memory.max": f"{8 * GIB}\n",
                "sys/fs/cgroup/box/memory.current": f"{3 * GIB}\n",
            },
            Memory(8 * GIB, 5 * GIB, True),
        ),
        (  # version 1, in a container that sees its group as the root; usage exceeds the limit
            {
                "proc/self/cgroup": "3:cpu:/x\n4:memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{5 * GIB}\n",
            },
            Memory(4 * GIB, 0, True),
        ),
        (  # no limit, in the notation of version 1
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{5 * GIB}\n",
            },
            Memory(16 * GIB, 10 * GIB, False),
        ),
    ],
)
def test_memory_is_the_machines_or_the_control_groups(tmp_path, files, expected):
    write(tmp_path, {"proc/meminfo": MEMINFO, **files})
    assert machine.memory(str(tmp_path)) == expected


def test_memory_that_cannot_be_found_out(tmp_path):
    assert machine.memory(str(tmp_path)) is None
    assert check_memory(None).level == NOTE


@pytest.mark.parametrize(
    ("instructions", "variable", "of_user", "level", "text"),
    [
        ("AVX2", "1", None, OK, "a processor, AVX2; oneDNN is on (TF_ENABLE_ONEDNN_OPTS=1, default)"),
        ("AVX", "1", "1", OK, "a processor, AVX; oneDNN is on (TF_ENABLE_ONEDNN_OPTS=1, set in the environment)"),
        (
            "AVX",
            "0",
            "0",
            NOTE,
            "oneDNN is off (TF_ENABLE_ONEDNN_OPTS=0, set in the environment): a training step takes",
        ),
        ("SSE41", "1", None, PROBLEM, "no AVX"),
        ("", "1", None, OK, "a processor; oneDNN: TF_ENABLE_ONEDNN_OPTS=1"),
    ],
)
def test_processor_and_onednn(monkeypatch, instructions, variable, of_user, level, text):
    monkeypatch.setattr(machine, "instruction_set", lambda: instructions)
    monkeypatch.setattr(machine, "processor", lambda: ", ".join(filter(None, ["a processor", instructions])))
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", variable)
    monkeypatch.setattr(lanes, "_USER_ONEDNN", of_user)
    finding = check_processor()
    assert (finding.level, finding.subject) == (level, "processor") and text in finding.text


@pytest.mark.parametrize(
    ("version", "level", "text"),
    [
        ("2.15.1", OK, "pinned, TensorFlow 2.15.1"),
        ("2.15.0", OK, "pinned, TensorFlow 2.15.0"),
        ("2.21.0", OK, "current, TensorFlow 2.21.0"),
        ("2.18.1", NOTE, "current; TensorFlow 2.18.1 is not tested, 2.15 and 2.21 are"),
        ("2.14.0", PROBLEM, "TensorFlow 2.14.0 is too old; 2.15 is the oldest that is supported: pip install -r "),
        ("", PROBLEM, "TensorFlow is not installed: pip install -r "),
    ],
)
def test_the_lane(monkeypatch, version, level, text):
    monkeypatch.setattr(lanes, "tensorflow_version", lambda: version)
    monkeypatch.setattr(lanes.importlib.util, "find_spec", lambda name: object())  # tf_keras
    monkeypatch.setitem(lanes.sys.modules, "tensorflow", None)
    finding = check_lane()
    assert (finding.level, finding.subject) == (level, "lane") and finding.text.startswith(text)


def test_each_lane_has_the_libraries_of_its_tensorflow(monkeypatch):
    libraries, built_for = {}, lanes.gpu_libraries()
    for version in ("2.15.1", "2.21.0"):
        monkeypatch.setattr(lanes, "tensorflow_version", lambda version=version: version)
        libraries[version] = set(lanes.gpu_libraries())
    assert libraries["2.15.1"] ^ libraries["2.21.0"] == {"libcudnn.so.8", "libcudnn.so.9"}
    build = tf.sysconfig.get_build_info()
    if build.get("is_cuda_build"):  # the platform for which the installed one was built
        assert f"libcudnn.so.{build['cudnn_version']}" in built_for
        assert "libcudart.so.12" in built_for and build["cuda_version"].startswith("12.")


def test_instruction_sets_are_onednns_names(tmp_path, monkeypatch):
    cpuinfo, core = tmp_path / "cpuinfo", "avx512f avx512bw avx512vl avx512dq"
    for flags, name in (
        ("sse4_1 avx avx2 fma", "AVX2"),
        ("avx avx2 fma avx_vnni", "AVX2_VNNI"),
        (f"avx avx2 fma {core}", "AVX512_CORE"),
        (f"avx avx2 fma {core} avx512_vnni avx512_bf16", "AVX512_CORE_BF16"),
        ("neon", ""),
    ):
        cpuinfo.write_text(f"model name\t: A processor \nflags\t\t: fpu {flags}\n")
        assert machine.instruction_set(str(cpuinfo)) == name
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    cpuinfo.write_text("model name : A processor\nflags : avx2 fma avx_vnni\n")
    assert machine.processor(str(cpuinfo)) == "A processor, AVX2_VNNI, ONEDNN_MAX_CPU_ISA=AVX2"


def test_gpus_are_found_by_driver_or_bus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.nvidia_gpus() == []
    program(
        tmp_path,
        "lspci",
        "echo '00:02.0 VGA compatible controller: Intel UHD'; echo '01:00.0 3D controller: NVIDIA T4'",
    )
    assert machine.nvidia_gpus() == [Gpu("NVIDIA T4", None, "")]
    program(tmp_path, "nvidia-smi", "echo 'NVIDIA A100, 80GB, 81920, 535.1'; echo 'Orin, [N/A], 540'")
    assert machine.nvidia_gpus() == [Gpu("NVIDIA A100, 80GB", 80 * GIB, "535.1"), Gpu("Orin", None, "540")]
    program(tmp_path, "nvidia-smi", "echo 'no devices were found, 1, 2'; exit 6")
    assert machine.nvidia_gpus() == [Gpu("NVIDIA T4", None, "")]


def test_libraries_are_looked_for_in_nvidias_packages_too(monkeypatch, tmp_path):
    assert machine.missing_libraries(["libc.so.6", "libnothing.so.9"]) == ["libnothing.so.9"]
    folder = tmp_path / "nvidia" / "nothing" / "lib"
    folder.mkdir(parents=True)
    libc = re.search(r"/\S*libc\.so\.6", pathlib.Path("/proc/self/maps").read_text())
    assert libc is not None
    (folder / "libnothing.so.9").symlink_to(libc[0])
    monkeypatch.syspath_prepend(tmp_path)
    assert machine.missing_libraries(["libnothing.so.9"]) == []


@pytest.mark.parametrize(
    ("pins", "lines"),
    [
        ([Pin("a", "1", "1"), Pin("b", "2", "2")], ["OK      packages: 2 of 2 as pinned: a 1, b 2"]),
        (
            [Pin("a", "1", "1"), Pin("b", "2", "3"), Pin("c", "4", None), Pin("tensorflow-io", "5", None)],
            [
                "NOTE    b: 3, but tested with 2: INSTALL",
                "PROBLEM c: not installed; 4 is required: INSTALL",
                "NOTE    tensorflow-io: not installed; 5 is required: INSTALL",
                "OK      packages: 1 of 4 as pinned: a 1",
            ],
        ),
        ([], ["NOTE    packages: neither requirements.txt nor the installed distribution lists them"]),
    ],
)
def test_versions_are_held_against_the_pins(monkeypatch, pins, lines):
    monkeypatch.setattr(machine, "pins", lambda: pins)
    monkeypatch.setattr(lanes, "install_command", lambda extra="": "INSTALL")
    found = [str(finding) for finding in check_versions()]
    assert found[0].startswith("OK      Python: 3.")
    assert found[1] == f"OK      lane: {lanes.name()}, TensorFlow {tf.__version__}"
    assert found[2:-3] == lines
    assert [line.split(":")[0] for line in found[-2:]] == ["OK      OpenCV", "OK      ffmpeg"]


def test_an_old_processor_and_a_missing_ffmpeg_are_problems(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "instruction_set", lambda *_: "SSE41")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    problems = [finding.subject for finding in check_versions() if finding.level == PROBLEM]
    assert problems == ["processor", "ffmpeg"]


@pytest.mark.parametrize(
    ("visible", "build", "missing", "advice"),
    [
        ("", {"is_cuda_build": True}, [], "CUDA_VISIBLE_DEVICES= hides it"),
        ("-1", {"is_cuda_build": True}, [], "CUDA_VISIBLE_DEVICES=-1 hides it"),
        ("0", {"is_cuda_build": False}, [], "built without CUDA"),
        (
            None,
            {"is_cuda_build": True},
            ["libcuda.so.1", "libcusparse.so.12"],
            "libcuda.so.1 does not load; install NVIDIA's driver",
        ),
        (
            None,
            {"is_cuda_build": True},
            ["libcusparse.so.12"],
            "libcusparse.so.12 cannot be loaded; pip install -r requirements-gpu.txt -c constraints",
        ),
        (None, {"is_cuda_build": True}, [], "with nvidia-smi"),
    ],
)
def test_why_tensorflow_does_not_see_a_gpu(monkeypatch, visible, build, missing, advice):
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: [Gpu("NVIDIA T4", 16 * GIB, "535")])
    monkeypatch.setattr(machine, "missing_libraries", lambda names: [name for name in names if name in missing])
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    finding, device = check_devices(Memory(8 * GIB, 4 * GIB, False))
    assert finding.level == NOTE
    assert (
        finding.text.startswith("NVIDIA T4 is installed, but TensorFlow does not see it: ") and advice in finding.text
    )
    assert device == Device("CPU", 1, f"{machine.num_cpus()} processors", 4 * GIB)


def test_gpus_that_tensorflow_sees(monkeypatch):
    monkeypatch.setattr(
        machine, "nvidia_gpus", lambda: [Gpu("A", 16 * GIB, ""), Gpu("B", 8 * GIB, ""), Gpu("C", None, "")]
    )
    seen = [types.SimpleNamespace(name=f"gpu{i}") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: seen)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": gpu.name.upper()})
    finding, device = check_devices(None)
    assert str(finding) == "OK      devices: 2 GPUs, of 3 known to the driver: GPU0, GPU1"
    assert device == Device("GPU", 2, "GPU0", 8 * GIB)


def test_room_for_checkpoints(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=3 * GIB))
    folder = str(tmp_path / "runs" / "new")
    for needed, wanted, level in ((3, 3, OK), (3.1, 3.1, PROBLEM), (1, 3.1, NOTE), (0, 0, OK)):
        finding = check_folder("--model_dir", folder, needed * GIB, wanted * GIB)
        assert finding.level == level
        assert finding.text.startswith(f"3.0 GiB free at {tmp_path}")
        assert ("checkpoints" in finding.text.replace(str(tmp_path), "")) == (needed > 0)
    (tmp_path / "file").write_text("")
    finding = check_folder("--model_dir", str(tmp_path / "file" / "run"))
    assert finding.level == PROBLEM and "is not a writable folder" in finding.text


def test_shards(tmp_path):
    assert check_shards(ModelConfig(), DataConfig())[0].level == NOTE
    finding, manifest = check_shards(ModelConfig(), DataConfig(data_dir=str(tmp_path / "none")))
    assert finding.level == PROBLEM and "no such folder" in finding.text and manifest is None
    expected = write_data_set(tmp_path, [5, 6, 7], labels=("a", "b"))
    finding, manifest = check_shards(ModelConfig(), DataConfig(data_dir=str(tmp_path)))
    assert manifest == expected and finding.level == OK
    assert finding.text.startswith("test, train: 3 videos, 2 labels, 16x16 pixels, 2 shards, ")
    file = expected.shards[1].file
    os.truncate(tmp_path / file, 7)
    finding, _ = check_shards(ModelConfig(), DataConfig(data_dir=str(tmp_path)))
    assert finding.level == PROBLEM and f"1 are damaged, the first {file}: 7 bytes" in finding.text
    assert check_shards(ModelConfig(), DataConfig(data_dir=str(tmp_path), skip_corrupt_records=True))[0].level == NOTE


def test_classes_without_a_video_are_a_note(tmp_path):
    manifest = write_data_set(tmp_path, [5, 6, 7], labels=("a", "b"))
    assert list(check_classes(manifest, conditional=True)) == []
    counted = dataclasses.replace(manifest, labels=["a", "b", "c"], videos_per_class=[2, 1, 0])
    text = "1 of 3 classes has no video: 'c'"
    assert list(check_classes(counted, conditional=False)) == [(NOTE, "classes", text)]
    learns = "; a conditional model learns nothing about them"
    assert list(check_classes(counted, conditional=True)) == [(NOTE, "classes", text + learns)]
    counted.save(tmp_path)
    config = tiny_config(model={"conditional": True}, data={"data_dir": str(tmp_path)})
    findings = run_checks(config, has_recipe=False)
    assert next(finding.text for finding in findings if finding.subject == "classes") == text + learns


# A step that takes 1 GiB, plus 2.4 GiB of activations for 4 x 8 clips: 0.075 GiB per clip.
STEP = StepCost(multiply_adds=4e9, state_bytes=GIB, trained_bytes=0, activation_bytes=2 * GIB)
LEAST = dataclasses.replace(STEP, activation_bytes=GIB // 16)  # for a single clip
PLAIN = {"frame_strides": (2,), "batch_strides": (1,)}


def least_or_step(config, clips):
    """Returns the cost of a step with this number of clips, for which recomputation saves nothing."""
    return LEAST if clips == 1 else STEP


def test_what_a_step_takes_by_hand():
    assert STEP.device_bytes == pytest.approx((1 + 1.2 * 2) * GIB, abs=1)
    assert dataclasses.replace(STEP, trained_bytes=GIB).device_bytes == pytest.approx((1 + 1.2 * 2 + 1.6) * GIB, abs=1)
    assert STEP.seconds(1e9) == 4 / cost.EFFICIENCY


@pytest.mark.parametrize(
    ("room", "replicas", "parts", "trained", "advice"),
    [
        (3.3, 1, 1, 0, "--gradient_accumulation_steps=2 or --global_batch_size=30 would fit"),
        (2.1, 1, 1, 0, "--gradient_accumulation_steps=4 or --global_batch_size=14 would fit"),
        # The sum of the gradients, 1.2 * 0.5 GiB, in addition to the updates of both, 1.6 * 0.5 GiB.
        (2.9, 1, 1, 0.5, "--gradient_accumulation_steps=8 or --global_batch_size=14 would fit"),
        (1.1, 1, 1, 0, "--gradient_accumulation_steps=32 or --global_batch_size=1 would fit"),
        (
            1.0,
            1,
            1,
            0,
            "no batch would fit; use narrower networks, a lower --resolution, or a machine with more memory",
        ),
    ],
)
def test_what_would_fit_by_hand(room, replicas, parts, trained, advice):
    config = tiny_config(PLAIN, global_batch_size=32, gradient_accumulation_steps=parts)
    step, least = (dataclasses.replace(c, trained_bytes=int(trained * GIB)) for c in (STEP, LEAST))
    assert suggest_flags(config, replicas, step, least, lambda _: room * GIB) == advice


def test_what_would_fit_keeps_to_strides_replicas_and_parts():
    # 128 clips: 32 on each of two replicas in two parts, of which the second level uses every second one.
    config = tiny_config(global_batch_size=128, gradient_accumulation_steps=2)
    least = dataclasses.replace(LEAST, activation_bytes=GIB // 8)
    text = suggest_flags(config, 2, STEP, least, lambda _: 2.1 * GIB)
    assert text == "--gradient_accumulation_steps=8 or --global_batch_size=56 would fit"


@pytest.mark.parametrize(
    ("host", "level", "advice"),
    [
        (None, OK, ""),
        (6.5, OK, ""),
        # 0.85 times the free memory, less input and process, holds 1 GiB and clips of 0.075 GiB.
        (6, NOTE, "; --gradient_accumulation_steps=2 or --global_batch_size=29 would fit"),
        (5.2, PROBLEM, "; --gradient_accumulation_steps=2 or --global_batch_size=20 would fit"),
    ],
)
def test_memory_of_a_run_on_the_cpu(host, level, advice):
    # 3.4 GiB of the step, 1 of the input and 0.91 of the process: 5.31.
    config = tiny_config(PLAIN, global_batch_size=32)
    available = None if host is None else host * GIB
    findings = list(
        check_memory_of_run(config, Device("CPU", 1, "", available), STEP, lambda _: GIB, available, least_or_step)
    )
    (finding,) = findings
    of_host = "" if host is None else f" of {host:.1f} GiB free"
    parts = "networks and Adam 1.0 GiB, the step 2.4 GiB, input 1.0 GiB, the process itself 930 MiB"
    assert finding == (level, "memory", f"about 5.3 GiB at the peak{of_host}: {parts}{advice}")


def test_a_smaller_batch_needs_less_input_too():
    """The input of 512 clips takes 8 GiB, more than available; this must not affect the advice on fewer clips."""
    config, large = tiny_config(PLAIN, global_batch_size=512), dataclasses.replace(STEP, activation_bytes=32 * GIB)

    def count(config, clips):
        return LEAST if clips == 1 else large

    # 0.85 * 6 GiB, less 0.91 of the process, holds 1 GiB and clips of 0.075 GiB, plus 1 / 64 GiB each in the input.
    device = Device("CPU", 1, "", None)
    (finding,) = check_memory_of_run(config, device, large, lambda batch: batch * GIB // 64, 6 * GIB, count)
    assert finding.level == PROBLEM and finding.text.endswith("; --global_batch_size=35 would fit")
    # The same input for GPUs, which share the batch: 4.19 GiB are 268 clips.
    gpus = Device("GPU", 2, "", 100 * GIB)
    host, _ = check_memory_of_run(config, gpus, large, lambda batch: batch * GIB // 64, 6 * GIB, count)
    assert host.text.endswith("; --global_batch_size=268 would fit, or lower --shuffle_buffer=1024")


def test_recomputing_is_named_where_that_is_enough():
    config, device = tiny_config(PLAIN, global_batch_size=32), Device("CPU", 1, "", None)

    def count(config, clips):
        step = least_or_step(config, clips)
        return (
            dataclasses.replace(step, activation_bytes=step.activation_bytes // 2) if config.train.recompute else step
        )

    # 2.2 GiB, while 0.85 * 5.25 GiB, less 1 of the input and 0.91 of the process, are available for the step.
    (finding,) = check_memory_of_run(config, device, STEP, lambda _: GIB, 21 * GIB // 4, count)
    assert finding.text.endswith("; --recompute or --gradient_accumulation_steps=2 or --global_batch_size=20 would fit")
    recomputing = tiny_config(PLAIN, global_batch_size=32, recompute=True)
    (finding,) = check_memory_of_run(recomputing, device, STEP, lambda _: GIB, 21 * GIB // 4, count)
    assert "--recompute" not in finding.text


def test_memory_of_a_run_on_gpus():
    config = tiny_config(PLAIN, global_batch_size=64)
    device = Device("GPU", 2, "", 3 * GIB)
    host, gpu = check_memory_of_run(config, device, STEP, lambda _: 3 * GIB, 2 * GIB, least_or_step)
    assert (host.level, host.subject) == (PROBLEM, "main memory")
    assert "about 3.9 GiB at the peak of 2.0 GiB free" in host.text and "lower --shuffle_buffer=1024" in host.text
    assert (gpu.level, gpu.subject) == (PROBLEM, "memory of a GPU")
    # 0.85 * 3 GiB hold 1 GiB and 20 clips.
    assert gpu.text.startswith("about 3.4 GiB at the peak of 3.0 GiB free: ")
    assert "--gradient_accumulation_steps=2 or --global_batch_size=40 would fit; --mixed_precision" in gpu.text


def test_time_by_hand():
    config = tiny_config(train_steps=7200)
    finding = check_time(config, Device("CPU", 1, "", None), STEP, 10e9)
    assert finding.level == OK
    assert finding.text.startswith("about 1 s per step, 2 hours for --train_steps=7200, estimated from 10 billion")
    slow = check_time(config, Device("CPU", 1, "", None), STEP, 10e6)
    assert slow.level == NOTE and "about 16.7 minutes per step, 83.3 days" in slow.text and "a GPU" in slow.text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MiB"), (12.4 * 2**20, "12 MiB"), (1.5 * GIB, "1.5 GiB"), (2345 * GIB, "2,345.0 GiB")]
)
def test_sizes(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2564, "0.26 s"), (119, "1.2e+02 s"), (120, "2 minutes"), (9000, "2.5 hours"), (1e7, "116 days")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_state_and_gradients_are_those_of_the_networks():
    config = tiny_config(r1_weight=0.0)
    generator, discriminator = Generator(config.model), Discriminator(config.model)
    trained = sum(tf.size(v).numpy() for v in [*generator.trainable_variables, *discriminator.trainable_variables])
    all_of_g = sum(tf.size(v).numpy() for v in generator.variables)
    both = all_of_g + sum(tf.size(v).numpy() for v in discriminator.variables)
    step = step_cost(config, 4)
    assert step.trained_bytes == 4 * trained
    assert step.state_bytes == 4 * (both + 2 * trained + all_of_g)  # the moments of Adam, the average
    twice = step_cost(dataclasses.replace(config, train=dataclasses.replace(config.train, ema_decay=0.0)), 8)
    assert twice.state_bytes == 4 * (both + 2 * trained)
    # All but the gradients and tensors derived from the weights doubles with the batch.
    assert 1.8 * step.activation_bytes < twice.activation_bytes < 2 * step.activation_bytes
    # With half of the batch at a time, memory is that of half the batch plus the sum of the gradients.
    parts = dataclasses.replace(config, train=dataclasses.replace(config.train, gradient_accumulation_steps=2))
    in_parts = step_cost(parts, 8)
    assert in_parts.activation_bytes == step.activation_bytes + step.trained_bytes
    assert in_parts.multiply_adds == 2 * step.multiply_adds


def test_input_pipeline_by_hand(tmp_path):
    manifest = write_data_set(tmp_path, [4, 4], width=20)
    manifest = dataclasses.replace(manifest, shards=[dataclasses.replace(s, bytes=4000) for s in manifest.shards])
    config = tiny_config(data={"shuffle_buffer": 10}, n_dis=2)
    # 1000 bytes per frame; a batch of 3 clips of 4 frames of 16x20 pixels, as bytes and as float32.
    expected = 3 * 10 * 4 * 1000 + cost.BATCHES_IN_FLIGHT * 2 * 3 * (4 * 16 * 20 * 3) * 5
    assert cost.pipeline_bytes(config, manifest, 3) == expected


def test_throughput_counts_rounds_in_time(monkeypatch):
    monkeypatch.setitem(cost.THROUGHPUT_SHAPES, "CPU", ((1, 2, 3, 4, 5), 6))
    ticks = iter([0.0, 0.5, 1.0, 2.5, 4.0])  # start, two rounds, too late, end
    monkeypatch.setattr(cost, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    # Forward and two gradients; 27 taps.
    assert cost.measure_throughput("CPU", seconds=2.0) == 3 * (2 * 3 * 4) * 5 * 6 * 27 * 2 / 4.0


def run(*argv, capsys):
    status = cli.run(doctor.main, RUN, "tganv2_tf.doctor", "", list(argv))
    output = capsys.readouterr()
    return status, output.out.splitlines(), output.err


@pytest.fixture
def sound(monkeypatch):
    """An installation without faults, on a machine with little to measure."""
    monkeypatch.setattr(machine, "pins", lambda: [Pin("a", "1", "1")])
    monkeypatch.setattr(cost, "measure_throughput", lambda kind, dtype: 1e9)
    monkeypatch.setattr(cost, "PROCESS_BYTES", 0)


def test_a_run_that_fits(sound, capsys, tmp_path):
    write_data_set(tmp_path / "data", [5, 6, 7], labels=("a", "b"))
    flags = [*TINY, f"--data_dir={tmp_path / 'data'}", f"--model_dir={tmp_path / 'run'}", "--conditional"]
    status, lines, errors = run(*flags, capsys=capsys)
    assert (status, errors) == (0, "")
    subjects = [line.split(":")[0] for line in lines]
    names = ("Python", "lane", "packages", "processor", "OpenCV", "ffmpeg", "machine", "data", "TensorFlow", "devices")
    assert subjects == [f"OK      {name}" for name in (*names, "run", "--model_dir", "memory", "time")]
    assert lines[10] == "OK      run: new"
    assert re.search("about .* MiB at the peak of .* GiB free", lines[-2])


def test_runs_that_cannot_work(sound, capsys, tmp_path):
    write_data_set(tmp_path / "data", [3, 3], height=16)
    status, lines, _ = run(*TINY, f"--data_dir={tmp_path / 'data'}", capsys=capsys)
    assert status == 1 and lines[-1] == "1 PROBLEM"
    assert lines[-2].startswith("PROBLEM recipe: --num_frames=4 with --frame_step=1: no video in ")
    write_data_set(tmp_path / "large", [5], height=24, width=24, num_shards=1)
    status, lines, _ = run(*TINY, f"--data_dir={tmp_path / 'large'}", capsys=capsys)
    assert status == 1 and "PROBLEM recipe: --resolution=16: the frames in" in lines[-2]
    status, _, errors = run(*TINY, "--global_batch_size=3", capsys=capsys)
    assert status == 2 and errors.startswith("doctor: --global_batch_size=3: valid: a multiple of 2")


def test_a_run_that_does_not_fit(sound, capsys, monkeypatch):
    # 1/8 GiB per clip; 0.85 of the 1.5 GiB free may be used: 10.2 clips, in multiples of two.
    clip = GIB // 8
    monkeypatch.setattr(
        cost,
        "step_cost",
        lambda config, clips: dataclasses.replace(STEP, state_bytes=0, activation_bytes=round(clips * clip / 1.2)),
    )
    monkeypatch.setattr(machine, "memory", lambda: Memory(2 * GIB, 3 * GIB // 2, False))
    status, lines, _ = run(*TINY, "--global_batch_size=16", capsys=capsys)
    assert status == 1 and lines[-1] == "1 PROBLEM"
    assert lines[-3] == (
        "PROBLEM memory: about 2.0 GiB at the peak of 1.5 GiB free: networks and Adam 0 MiB, the step 2.0 GiB, input "
        "0 MiB, the process itself 0 MiB; --gradient_accumulation_steps=2 or --global_batch_size=10 would fit"
    )


@pytest.mark.parametrize(("distribution", "clips"), [("mirrored", 8), ("one_device", 16), ("multi_worker", 8)])
def test_devices_share_the_batch(sound, capsys, monkeypatch, distribution, clips):
    counted = []

    def count(config, clips):
        counted.append(clips)
        return STEP

    finding = Finding(OK, "devices", "two")
    monkeypatch.setattr(recipe, "check_devices", lambda memory: (finding, Device("GPU", 2, "", 16 * GIB)))
    monkeypatch.setattr(cost, "step_cost", count)
    status, lines, _ = run(*TINY, "--global_batch_size=16", f"--distribution={distribution}", capsys=capsys)
    assert (status, counted) == (0, [clips])
    assert any("as if this machine trained alone" in line for line in lines) == (distribution == "multi_worker")


def test_another_run_in_the_folder_is_a_problem(sound, capsys, monkeypatch):
    def check_run(config):
        raise ConfigError("RUN contains another run")

    monkeypatch.setattr(compatibility, "check_run", check_run)
    monkeypatch.setattr(cost, "step_cost", lambda config, clips: STEP)
    status, lines, _ = run(*TINY, capsys=capsys)
    assert status == 1 and "PROBLEM run: RUN contains another run" in lines


def test_without_a_recipe_nothing_is_estimated(sound, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "step_cost", None)
    status, lines, _ = run(f"--model_dir={tmp_path}", capsys=capsys)
    assert status == 0 and lines[-1].startswith("OK      run: no recipe given; with one, such as --flagfile=")


def test_a_tensorflow_that_does_not_load_ends_the_examination(sound, capsys, monkeypatch):
    monkeypatch.setitem(doctor.sys.modules, "tensorflow", None)
    status, lines, _ = run(*TINY, capsys=capsys)
    assert status == 1
    assert lines[-2].startswith("PROBLEM TensorFlow: cannot be imported: ")
    assert lines[-2].endswith(f"in a fresh environment: {lanes.install_command()}")


def test_an_unsupported_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(lanes, "python_fault", lambda: "tganv2_tf needs another")
    assert next(check_versions()).level == PROBLEM
