"""The Python interface: `tganv2_tf.load` and `tganv2_tf.evaluate`. docs/python_api.md shows both.

Their errors are `ValueError` for an argument out of its range and `UserError` for files that are missing or damaged.
TensorFlow is imported by the first call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Union

from tganv2_tf import lanes
from tganv2_tf.errors import ConfigError, InstallError, UserError

if TYPE_CHECKING:
    import numpy as np

    from tganv2_tf.serving.sampler import Sampler

Path = Union[str, "os.PathLike[str]"]


def load(path: Path) -> Sampler:
    """Loads a generator: `load(path).videos(seeds=range(4))` is uint8 [4, T, H, W, 3].

    Args:
      path: a run (its newest checkpoint), RUN/best, a checkpoint such as RUN/snapshots/ckpt-10000, or the folder
        NAME/VERSION of a SavedModel; of this machine or a bucket.
    Returns:
      A sampler: `videos`, `latents`, `stream`, and `class_names`, `resolution`, `num_frames`, `num_levels`, `fps`, ...
    Raises:
      UserError: no generator there, or a damaged one, or a TensorFlow that cannot be used.
    """
    _require_tensorflow()
    from tganv2_tf.serving import sampler

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
      videos: a generator as in `load`, a folder of video files, or uint8 [N, T, H, W, 3] with T at least 16, of which
        the first 16 frames count, cropped and resized as those in `data_dir` were; fewer than `num_samples` times
        `repetitions` make fewer repetitions.
      data_dir: shards of real videos; for a run, the default is those that it was trained on.
      classifier: C3D for the scores, a file of `tganv2_tf.train_classifier` or the authors'.
      scores: names, such as `c3d_fid`.
      **options: other options of the command by their names: `num_samples` (2048), `repetitions` (10), `seed`,
        `truncation`, `i3d`, `flip`, `frame_step`, `c3d_mean`, `eval_batch_size`, `cache_dir`, ...
    Returns:
      The mean over the repetitions, by score. No file is written but the features in `cache_dir`.
    Raises:
      ValueError: an option that does not exist, or out of its range.
      UserError: a file that is missing or damaged, too few videos, or a TensorFlow that cannot be used.
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
    return {name: of.mean for name, of in outcome.scores.items()}


def _kind(path: str) -> str:
    """The option of the command that takes what is at a path."""
    from tganv2_tf.runs import Run
    from tganv2_tf.serving.sampler import is_saved_model

    if is_saved_model(path):
        return "saved_model"
    return "video_dir" if os.path.isdir(path) and not Run.open(path).exists else "model_dir"


def _require_tensorflow() -> None:
    fault = lanes.tensorflow_fault()
    if fault:
        raise InstallError(fault)


@contextlib.contextmanager
def _without_flags() -> Iterator[None]:
    """Options are arguments here: in errors `--data_dir=x` becomes `data_dir=x`, and a wrong option is a ValueError."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"(?<![\w-])--(?=\w)", "", str(error))
        raise (ValueError if isinstance(error, ConfigError) else UserError)(text) from error
