"""The Python interface: `tganv2_tf.load` and `tganv2_tf.evaluate`. docs/python_api.md shows both.

They raise `ValueError` for arguments out of range and `UserError` for missing or damaged files. TensorFlow is imported
by the first call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Union

from tganv2_tf.errors import ConfigError, InstallError, UserError
from tganv2_tf.runtime import lanes

if TYPE_CHECKING:
    import numpy as np

    from tganv2_tf.sampling.sampler import Sampler

Path = Union[str, "os.PathLike[str]"]


def load(path: Path) -> Sampler:
    """Loads a generator: `load(path).videos(seeds=range(4))` is uint8 [4, T, H, W, 3].

    Args:
      path: a run (its newest checkpoint), RUN/best, a checkpoint such as RUN/snapshots/ckpt-10000, or the folder
        NAME/VERSION of a SavedModel; on this machine or in a bucket.
    Returns:
      A sampler: `videos`, `latents`, `stream`, and `class_names`, `resolution`, `num_frames`, `num_levels`, `fps`, ...
    Raises:
      UserError: the generator does not exist or is damaged, or the installed TensorFlow is unusable.
    """
    _require_tensorflow()
    from tganv2_tf.sampling import sampler

    with _without_flags():
        return sampler.load(os.fspath(path))


def evaluate(
    videos: Path | np.ndarray,
    data_dir: Path = "",
    classifier: Path = "",
    scores: str | Sequence[str] = ("inception_score", "c3d_fid"),
    **options: Any,
) -> dict[str, float]:
    """Scores a generator or videos, by the protocol of `python -m tganv2_tf.evaluate`.

    Args:
      videos: a generator as in `load`, a folder of video files, or uint8 [N, T, H, W, 3] with T at least 16. The first
        16 frames of each video are used, cropped and resized like those in `data_dir`. Fewer videos than `num_samples`
        times `repetitions` give fewer repetitions.
      data_dir: shards of real videos; for a run, the default is its training data.
      classifier: C3D for the scores, written by `tganv2_tf.train_classifier` or the authors'.
      scores: names, such as `c3d_fid`.
      **options: other options of the command by name: `num_samples` (2048), `repetitions` (10), `seed`, `truncation`,
        `i3d`, `flip`, `frame_step`, `c3d_mean`, `eval_batch_size`, `cache_dir`, ...
    Returns:
      The mean over the repetitions, by score. Only the features in `cache_dir` are written to disk.
    Raises:
      ValueError: an option does not exist or is out of range.
      UserError: a file is missing or damaged, there are too few videos, or the installed TensorFlow is unusable.
    """
    _require_tensorflow()
    import numpy as np

    from tganv2_tf.config import EvalConfig
    from tganv2_tf.evaluate import Command, score

    array = None if isinstance(videos, (str, os.PathLike)) else np.asarray(videos)
    options |= {} if array is not None else {_kind(str(videos)): str(videos)}
    options |= {"data_dir": data_dir, "classifier": classifier}
    options["scores"] = scores if isinstance(scores, str) else ",".join(scores)
    options = {name: str(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    fields = {kind: {field.name for field in dataclasses.fields(kind)} for kind in (Command, EvalConfig)}
    known = set().union(*fields.values())
    if set(options) - known:
        raise ValueError(f"{min(set(options) - known)}: no such option; valid: {', '.join(sorted(known))}")
    with _without_flags():
        command = Command(**{name: options[name] for name in fields[Command] & set(options)})
        config = EvalConfig(**{name: options[name] for name in fields[EvalConfig] & set(options)})
        outcome = score(command, config, videos=array)
    return {name: result.mean for name, result in outcome.scores.items()}


def _kind(path: str) -> str:
    """Returns the command's option for the kind of source at a path."""
    from tganv2_tf.runs import Run
    from tganv2_tf.sampling.sampler import is_saved_model

    if is_saved_model(path):
        return "saved_model"
    return "video_dir" if os.path.isdir(path) and not Run.open(path).exists else "model_dir"


def _require_tensorflow() -> None:
    fault = lanes.tensorflow_fault()
    if fault:
        raise InstallError(fault)


@contextlib.contextmanager
def _without_flags() -> Iterator[None]:
    """Converts errors to the Python interface: `--data_dir=x` becomes `data_dir=x`, a ConfigError a ValueError."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"(?<![\w-])--(?=\w)", "", str(error))
        raise (ValueError if isinstance(error, ConfigError) else UserError)(text) from error
