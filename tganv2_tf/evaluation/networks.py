"""The networks whose word the scores take, and what they say of batches of videos."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from tganv2_tf.config import EvalConfig
from tganv2_tf.data.manifest import checksum
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.evaluation.c3d import C3D, load_c3d, resize
from tganv2_tf.evaluation.classifier import load_classifier
from tganv2_tf.evaluation.samples import Batches
from tganv2_tf.evaluation.ucf101 import CLASSES as UCF101

PAPER_SIZE = 128
# Of a batch, by the network's name: features float32 [n, d], and class probabilities float32 [n, K] or None.
Answers = dict[str, tuple[np.ndarray, Optional[np.ndarray]]]


class Network(NamedTuple):
    """What sees videos for the scores.

    Attributes:
      name: `c3d` or `i3d`.
      identity: what its answers depend on, for the cache and the report: checksums of files, preprocessing.
      describe: float32 [n, 16, H, W, 3] in [-1, 1] -> features [n, d], and class probabilities [n, K] or None.
      labels: names of the K classes; empty if they are not known.
    """

    name: str
    identity: dict[str, Any]
    describe: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor | None]]
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NetworkFiles:
    """Where networks are; enough to load them on another machine.

    Attributes:
      kinds: names, of `c3d` and `i3d`.
      config: `classifier`, `c3d_mean`, `protocol`.
      i3d: SavedModel or TF-Hub module.
    Raises:
      ConfigError: there is no `i3d`, and it is asked for.
    """

    kinds: tuple[str, ...]
    config: EvalConfig
    i3d: str = ""

    def __post_init__(self) -> None:
        if "i3d" in self.kinds and not self.i3d:
            raise ConfigError("--i3d is missing: the network of fvd and kvd, a SavedModel or TF-Hub module")


@functools.lru_cache(maxsize=1)  # a process of a cluster is asked again and again
def load_networks(files: NetworkFiles) -> dict[str, Network]:
    """The networks, by name.

    Raises:
      ConfigError: `classifier` is not set.
      UserError: a file is missing or cannot be used.
    """
    networks = {}
    if "c3d" in files.kinds:
        networks["c3d"] = load_c3d_network(files.config)
    if "i3d" in files.kinds:
        networks["i3d"] = load_i3d_network(files.i3d)
    return networks


def described(batches: Batches, kinds: Collection[str], networks: Mapping[str, Network]) -> Iterator[Answers]:
    """`describe` of each batch."""
    return (describe(videos, kinds, networks) for videos in batches)


def describe(videos: tf.Tensor, kinds: Collection[str], networks: Mapping[str, Network]) -> Answers:
    """What some of the networks say.

    Args:
      videos: float32 [n, 16, H, W, 3] in [-1, 1].
      kinds: their names.
      networks: by name.
    """
    answers: Answers = {}
    for name in kinds:
        features, probabilities = networks[name].describe(videos)
        answers[name] = features.numpy(), None if probabilities is None else probabilities.numpy()
    return answers


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Says what to do where a batch takes too much in its block."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError("out of memory; lower --eval_batch_size") from error


def load_c3d_network(config: EvalConfig) -> Network:
    """The C3D in `--classifier`, with the preprocessing of `--protocol`.

    Raises:
      ConfigError: no `--classifier`.
      UserError: no such file, or not one of a C3D.
    """
    if not config.classifier:
        raise ConfigError(
            "--classifier is missing: a C3D; `python -m tganv2_tf.train_classifier` makes one, or use the authors' "
            "conv3d_deepnetA_ucf.npz with their --c3d_mean=mean2.npz"
        )
    files = [config.classifier]
    if config.c3d_mean:
        network: C3D = load_c3d(config.classifier, config.c3d_mean)
        files.append(config.c3d_mean)
    else:
        network = load_classifier(config.classifier)

    @tf.function(reduce_retracing=True)
    def describe(videos: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = network(resize(videos, PAPER_SIZE) if config.protocol == "paper" else videos)
        return outputs["fc7"], outputs["probabilities"]

    identity = {"network": "c3d", "files": [checksum(file) for file in files], "protocol": config.protocol}
    labels = network.labels
    if not labels and network.num_classes == len(UCF101):  # such as the authors'
        labels = UCF101
    return Network("c3d", identity, describe, labels)


def load_i3d_network(path: str) -> Network:
    """The I3D of FVD and KVD, from a SavedModel or a TF-Hub module; see `tganv2_tf.evaluation.i3d`.

    Raises:
      UserError: it cannot be loaded.
    """
    from tganv2_tf.evaluation.i3d import load_i3d

    network = load_i3d(path)
    identity = {"network": "i3d", "files": [network.checksum]}
    return Network("i3d", identity, lambda videos: (network(videos), None))
