"""The two lanes of dependencies, and every difference between them. No other module checks versions.

| lane | Python | TensorFlow | what else |
|---|---|---|---|
| pinned | 3.9 to 3.11 | 2.15 | Keras 2, tensorflow-io, tensorflow-addons, NumPy 1 |
| current | 3.12 and 3.13; 3.10 and 3.11 optionally | 2.21 | tf_keras (Keras 2 as a package), NumPy 2 |

Since 2.16, `tf.keras` is Keras 3 unless `TF_USE_LEGACY_KERAS=1` is set before TensorFlow is imported. This package uses
Keras 2 for its layers, optimizer and checkpoints, so `prepare` sets it. There are no wheels of tensorflow-io and
tensorflow-addons for the current lane. Both lanes use boto3 for buckets; `progress_bar_class` replaces the progress bar
of tensorflow-addons.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import time
from typing import Any

PYTHONS = ((3, 9), (3, 13))  # the oldest and the newest supported version
TESTED = ("2.15", "2.21")  # release lines of TensorFlow
ROOT = pathlib.Path(__file__).resolve().parents[2]
DISTRIBUTION = "tganv2-tf"
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
ONEDNN_DEFAULT = "1"  # of this package; TensorFlow's own depends on the processor
MIN_GPU_DRIVER = "525.60.13"  # NVIDIA's, on Linux, by CUDA 12's minor version compatibility; the same in both lanes
LEGACY_KERAS = "TF_USE_LEGACY_KERAS"
_USER_ONEDNN = os.environ.get(ONEDNN)


def python_fault(version: tuple[int, ...] = sys.version_info[:2]) -> str:
    """Returns a line with the supported versions of Python; empty if this version is supported."""
    first, last = PYTHONS
    if first <= tuple(version[:2]) <= last:
        return ""
    return "tganv2_tf needs Python 3.{} to 3.{}; this is Python {}.{}.".format(first[1], last[1], *version[:2])


@functools.lru_cache(maxsize=None)  # noqa: UP033 (Python 3.8, which must show its error line, has no functools.cache)
def tensorflow_version() -> str:
    """Returns the version of the installed TensorFlow without importing it; empty if there is none."""
    for name in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203 (three names)
            continue
    return ""


def release_line(version: str) -> tuple[int, ...]:
    """Returns (major, minor) of a version such as `2.21.0` or `2.17.0+nv25.2`."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def has_legacy_keras() -> bool:
    """Returns whether Keras 2 is the separate package tf_keras, i.e. TensorFlow is 2.16 or newer."""
    version = tensorflow_version()
    return bool(version) and release_line(version) >= (2, 16)


def prepare() -> None:
    """Sets the environment variables that TensorFlow reads on import. Called by `tganv2_tf/__init__.py`.

    oneDNN: by default, TensorFlow enables it only on processors with AVX512_VNNI, AVX512_BF16, AVX_VNNI or AMX. On
    others a training step takes several times as long without it (docs/performance.md). A value set by the user is
    kept.

    Raises:
      ImportError: TensorFlow has already been imported, with Keras 3.
    """
    os.environ.setdefault(ONEDNN, ONEDNN_DEFAULT)
    if has_legacy_keras():
        if "tensorflow" in sys.modules and os.environ.get(LEGACY_KERAS) not in ("1", "true", "True"):
            raise ImportError(
                "TensorFlow is already imported, with Keras 3 as tf.keras: import tganv2_tf first, or set "
                f"{LEGACY_KERAS}=1"
            )
        os.environ[LEGACY_KERAS] = "1"
    else:
        os.environ.pop(LEGACY_KERAS, None)  # with it, TensorFlow 2.15 would require tf_keras; it has Keras 2 anyway


def onednn_state() -> tuple[bool, str]:
    """Returns whether TensorFlow may use oneDNN, and a description of who set this."""
    value = os.environ.get(ONEDNN, "")
    enabled = value.lower() not in ("0", "false")
    return enabled, f"{ONEDNN}={value}, {'default' if _USER_ONEDNN is None else 'set in the environment'}"


def name() -> str:
    """Returns the lane, `pinned` or `current`, of the installed TensorFlow, or else of this Python."""
    if tensorflow_version():
        return "current" if has_legacy_keras() else "pinned"
    return "current" if sys.version_info >= (3, 12) else "pinned"


def is_by_choice() -> bool:
    """Returns whether this is the current lane, with its own requirements, on a Python whose default is the other."""
    return name() == "current" and sys.version_info < (3, 12)


def gpu_libraries() -> tuple[str, ...]:
    """Returns the libraries, besides the driver's, that TensorFlow loads for GPUs: CUDA 12 and cuDNN."""
    cudnn = "libcudnn.so.9" if name() == "current" else "libcudnn.so.8"
    return (
        "libcudart.so.12",
        "libcublas.so.12",
        "libcublasLt.so.12",
        "libcufft.so.11",
        "libcurand.so.10",
        "libcusolver.so.11",
        "libcusparse.so.12",
        cudnn,
    )


def tensorflow_fault() -> str:
    """Returns why the installed TensorFlow is unusable, in one line with a remedy; empty if it is usable."""
    version = tensorflow_version()
    if not version:
        return f"TensorFlow is not installed: {install_command()}"
    if has_legacy_keras():
        if not importlib.util.find_spec("tf_keras"):
            line = ".".join(map(str, release_line(version)))
            return f"TensorFlow {version} needs Keras 2 as a package: pip install 'tf_keras=={line}.*'"
    elif release_line(version) < (2, 15):
        return f"TensorFlow {version} is too old; 2.15 is the oldest that is supported: {install_command()}"
    return ""


def is_tested(version: str) -> bool:
    """Returns whether the tests run with this version of TensorFlow."""
    return ".".join(map(str, release_line(version))) in TESTED


def install_command(extra: str = "") -> str:
    """Returns the command that installs the requirements, or an extra: `explore`, `ray`, `gpu`, `fvd`, `peers`, ..."""
    if not (ROOT / "requirements.txt").is_file():  # an installed package
        # Not by the package's name: it is not published, and anyone could register that name on an index.
        return f"pip install '.{f'[{extra}]' if extra else ''}' in the checkout that {DISTRIBUTION} was installed from"
    suffix = "-current" if is_by_choice() else ""
    requirements = f"requirements-{extra}.txt" if extra else f"requirements{suffix}.txt"
    return f"pip install -r {requirements} -c constraints{suffix}.txt"


def coordinated_job() -> Any:
    """Returns the protocol buffer class for jobs of a cluster; its module was moved."""
    if has_legacy_keras():
        from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    else:
        from tensorflow.tsl.protobuf import coordination_config_pb2
    return coordination_config_pb2.CoordinatedJob


def silence_opencv() -> None:
    """Disables OpenCV's log messages; the function was moved between versions 4.11 and 4.13."""
    import cv2

    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def progress_bar_class() -> Any:
    """Returns the Keras callback for a tqdm progress bar: TensorFlow Addons' class, or a substitute."""
    if not has_legacy_keras():
        from tensorflow_addons.callbacks import TQDMProgressBar

        return TQDMProgressBar
    return _progress_bar_without_addons()


def _progress_bar_without_addons() -> Any:
    import tensorflow as tf
    from tqdm import tqdm

    class TQDMProgressBar(tf.keras.callbacks.Callback):
        """The parts of the Addons' class that training uses: one bar per epoch, redrawn every `update_interval`."""

        update_interval = 0.1  # seconds

        def __init__(self, epoch_bar_format: str, show_overall_progress: bool = False) -> None:
            super().__init__()
            self.epoch_bar_format = epoch_bar_format
            self.epoch_progress_tqdm: Any = None
            self.last_update_time = time.time()

        def _initialize_progbar(self, hook: str, epoch: int, logs: dict[str, Any] | None = None) -> None:
            steps, self.steps_to_update = self.params["steps"], 0
            self.epoch_progress_tqdm = tqdm(total=steps, bar_format=self.epoch_bar_format, dynamic_ncols=True)

        def _update_progbar(self, logs: dict[str, Any]) -> None:
            self.steps_to_update += 1
            now = time.time()
            if now - self.last_update_time >= self.update_interval:
                self.epoch_progress_tqdm.desc = self.format_metrics()
                self.epoch_progress_tqdm.update(self.steps_to_update)
                self.steps_to_update, self.last_update_time = 0, now

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self._initialize_progbar("train_epoch", epoch, logs)

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self._clean_up_progbar("train_epoch", logs)

    return TQDMProgressBar
