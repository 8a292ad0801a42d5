"""Features of real clips, cached under a digest of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tganv2_tf import storage
from tganv2_tf.config import DataConfig, EvalConfig
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation import metrics
from tganv2_tf.evaluation.c3d import NUM_FRAMES
from tganv2_tf.evaluation.networks import Network, NetworkOutputs, explain_out_of_memory, extract_features
from tganv2_tf.evaluation.samples import Batches, Rebatcher, shard_batches
from tganv2_tf.storage.files import atomic_file, read_npz

NEIGHBOURS = 5  # the largest k of the scores; there must be more samples
REAL_SEED = 0  # all evaluations use the same real clips
CACHE_FORMAT = 1


class RealStatistics(NamedTuple):
    """Features of real clips.

    Attributes:
      moments: mean and covariance of all of them.
      sample: float32 [n, d], the first ones, as many as in a repetition, for scores that compare samples.
    """

    moments: metrics.Moments
    sample: np.ndarray


def digest(identity: Any) -> str:
    """Returns a hash, 24 hexadecimal digits, of a JSON-serializable value."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def describe_real(data: DataConfig, manifest: Manifest, config: EvalConfig) -> dict[str, Any]:
    """Returns which real clips are used and how they are sampled."""
    fields = ("flip", "frame_step", "normalization", "skip_corrupt_records")
    return {
        **{field: getattr(data, field) for field in fields},
        "clips": config.real_passes * manifest.num_records,
        "num_frames": NUM_FRAMES,
        "seed": REAL_SEED,
        "shards": {shard.file: shard.checksum for shard in manifest.shards},
    }


def real_features(
    network: Network,
    manifest: Manifest,
    data: DataConfig,
    config: EvalConfig,
    extract: Callable[[Batches], Iterator[NetworkOutputs]] | None = None,
) -> RealStatistics:
    """Computes features of `real_passes` clips per real video (on average), or reads them from the cache.

    Args:
      network: the feature extractor.
      manifest: manifest of the data set in `data.data_dir`.
      data: how training samples clips.
      config: `real_passes`, `num_samples` and `cache_dir` are used.
      extract: computes the network's outputs on other machines; None = on this one.
    Raises:
      ConfigError: no video has 16 frames.
      UserError: the data are damaged or too few, or features are not finite.
    """
    count = config.real_passes * manifest.num_records
    if count <= NEIGHBOURS:
        raise UserError(f"{data.data_dir}: {count} real clips are too few; raise --real_passes")
    missing = min(config.num_samples, count)
    identity = {
        "format": CACHE_FORMAT,
        "network": network.identity,
        "clips": describe_real(data, manifest, config),
        "kept": missing,
        "tensorflow": tf.__version__,
    }
    path = None
    if config.cache_dir:
        path = storage.join(os.path.expanduser(config.cache_dir), f"real-{network.name}-{digest(identity)}.npz")
        cached = _cached(path, json.dumps(identity))
        if cached is not None:
            return cached
    moments, kept = metrics.Moments(), []
    batches = Rebatcher(shard_batches(manifest, data, REAL_SEED, config.eval_batch_size)).take(count)
    outputs = (
        extract_features(batches, [network.name], {network.name: network}) if extract is None else extract(batches)
    )
    with explain_out_of_memory(), tqdm(total=count, desc="real clips", unit="clip", mininterval=1) as bar:
        for batch in outputs:
            features = batch[network.name][0]
            if not np.isfinite(features).all():
                raise UserError("network outputs for real clips are not finite; the network file is unusable")
            moments.update(features)
            if missing > 0:
                kept.append(features[:missing])
                missing -= len(kept[-1])
            bar.update(len(features))
    real = RealStatistics(moments, np.concatenate(kept))
    if path is not None:
        try:
            with atomic_file(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, identity=json.dumps(identity), sample=real.sample, **moments.to_arrays())
        except OSError as error:
            logging.warning("%s: features of real clips are not cached: %s.", path, error)
    return real


def _cached(path: str, identity: str) -> RealStatistics | None:
    if not storage.exists(path):
        return None
    try:
        arrays = read_npz(path, "tganv2_tf")
        if str(arrays["identity"]) != identity:
            raise ValueError(f"{path}: of other clips or another network")
        return RealStatistics(metrics.Moments.from_arrays(arrays), arrays["sample"])
    except (UserError, KeyError, ValueError) as error:
        logging.warning("%s; recomputing.", error)
        return None
