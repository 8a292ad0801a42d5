"""Feature extractors (C3D, I3D) used by the metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf.config import EvalConfig
from tganv2_tf.data.manifest import checksum
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import C3D, load_c3d, resize
from tganv2_tf.evaluation.classifier import read_classifier, reliability_warning
from tganv2_tf.evaluation.samples import Batches
from tganv2_tf.evaluation.score_names import require_classifier, require_i3d
from tganv2_tf.evaluation.ucf101 import CLASSES as UCF101

PAPER_SIZE = 128
# Outputs for one batch, by network name: features float32 [n, d], and class probabilities float32 [n, K] or None.
NetworkOutputs = dict[str, tuple[np.ndarray, Optional[np.ndarray]]]


class Network(NamedTuple):
    """A feature extractor.

    Attributes:
      name: `c3d` or `i3d`.
      identity: everything the outputs depend on (checksums of files, preprocessing), for the cache and the report.
      extract: float32 [n, 16, H, W, 3] in [-1, 1] -> features [n, d], and class probabilities [n, K] or None.
      labels: names of the K classes; empty if unknown.
      warning: why its scores may be unreliable, as a sentence that begins with its file; empty if no reason is known.
    """

    name: str
    identity: dict[str, Any]
    extract: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor | None]]
    labels: tuple[str, ...] = ()
    warning: str = ""


@dataclasses.dataclass(frozen=True)
class NetworkFiles:
    """Paths and options for loading networks, also on another machine.

    Attributes:
      kinds: names of the networks, `c3d` and `i3d`.
      config: `classifier`, `c3d_mean` and `protocol` are used.
      i3d: SavedModel or TF-Hub module.
    Raises:
      ConfigError: the I3D network is in `kinds`, but `i3d` is empty.
    """

    kinds: tuple[str, ...]
    config: EvalConfig
    i3d: str = ""

    def __post_init__(self) -> None:
        if "i3d" in self.kinds:
            require_i3d(self.i3d)


@functools.lru_cache(maxsize=1)  # a worker process calls this once per batch
def load_networks(files: NetworkFiles) -> dict[str, Network]:
    """Loads networks; returns them by name.

    Raises:
      ConfigError: `classifier` is not set.
      UserError: a file is missing or unusable.
    """
    networks = {}
    if "c3d" in files.kinds:
        networks["c3d"] = load_c3d_network(files.config)
    if "i3d" in files.kinds:
        networks["i3d"] = load_i3d_network(files.i3d)
    return networks


def extract_features(
    batches: Batches, kinds: Collection[str], networks: Mapping[str, Network]
) -> Iterator[NetworkOutputs]:
    """Applies `extract_batch_features` to each batch."""
    return (extract_batch_features(videos, kinds, networks) for videos in batches)


def extract_batch_features(
    videos: tf.Tensor, kinds: Collection[str], networks: Mapping[str, Network]
) -> NetworkOutputs:
    """Computes the outputs of networks for a batch.

    Args:
      videos: float32 [n, 16, H, W, 3] in [-1, 1].
      kinds: names of the networks to apply.
      networks: all loaded networks by name.
    """
    outputs: NetworkOutputs = {}
    for name in kinds:
        features, probabilities = networks[name].extract(videos)
        outputs[name] = features.numpy(), None if probabilities is None else probabilities.numpy()
    return outputs


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turns out-of-memory errors in the block into a UserError with advice."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError("out of memory; lower --eval_batch_size") from error


def load_c3d_network(config: EvalConfig) -> Network:
    """Loads the C3D in `--classifier`, with the preprocessing of `--protocol`.

    Raises:
      ConfigError: `--classifier` is not set.
      UserError: the file does not exist or does not hold a C3D.
    """
    require_classifier(config)
    files, warning = [config.classifier], ""
    if config.c3d_mean:
        network: C3D = load_c3d(config.classifier, config.c3d_mean)
        files.append(config.c3d_mean)
    else:
        network, metadata = read_classifier(config.classifier)
        warning = reliability_warning(metadata)

    @tf.function(reduce_retracing=True, autograph=False)
    def extract(videos: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = network(resize(videos, PAPER_SIZE) if config.protocol == "paper" else videos)
        return outputs["fc7"], outputs["probabilities"]

    identity = {"network": "c3d", "files": [checksum(file) for file in files], "protocol": config.protocol}
    labels = network.labels
    if not labels and network.num_classes == len(UCF101):  # e.g. the authors' network
        labels = UCF101
    return Network("c3d", identity, extract, labels, warning and f"{config.classifier}: {warning}")


def warn_if_unreliable(networks: Mapping[str, Network]) -> None:
    """Logs a warning for each network whose scores may be unreliable."""
    for network in networks.values():
        if network.warning:
            logging.warning("%s.", network.warning)


def load_i3d_network(path: str) -> Network:
    """Loads the I3D of FVD and KVD from a SavedModel or a TF-Hub module; see `tganv2_tf.evaluation.i3d`.

    Raises:
      UserError: the network cannot be loaded.
    """
    from tganv2_tf.evaluation.i3d import load_i3d

    network = load_i3d(path)
    identity = {"network": "i3d", "files": [network.checksum]}
    return Network("i3d", identity, lambda videos: (network(videos), None))
