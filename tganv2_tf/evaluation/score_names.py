"""Names of the scores and their requirements. Imports no TensorFlow, so that missing options are reported at once."""

from __future__ import annotations

from collections.abc import Collection

from tganv2_tf.config import EvalConfig
from tganv2_tf.errors import ConfigError

# The network that each score uses.
SCORE_NETWORK = {
    "inception_score": "c3d",
    "c3d_fid": "c3d",
    "class_accuracy": "c3d",
    "effective_classes": "c3d",
    "precision": "c3d",
    "recall": "c3d",
    "density": "c3d",
    "coverage": "c3d",
    "fvd": "i3d",
    "kvd": "i3d",
}
REFERENCE_FREE = {"inception_score", "class_accuracy", "effective_classes"}


def parse_scores(text: str) -> list[str]:
    """Parses a comma-separated list such as `inception_score,c3d_fid`.

    Raises:
      ConfigError: a name is unknown, or the list is empty.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not set(names) <= set(SCORE_NETWORK):
        raise ConfigError(f"--scores={text}: valid: some of {','.join(SCORE_NETWORK)}")
    return list(dict.fromkeys(names))


def required_networks(names: Collection[str]) -> tuple[str, ...]:
    """Returns the sorted names of the networks that the scores need."""
    return tuple(sorted({SCORE_NETWORK[name] for name in names}))


def networks_with_real_clips(names: Collection[str]) -> set[str]:
    """Returns the networks whose features of real clips are needed."""
    return {SCORE_NETWORK[name] for name in names if name not in REFERENCE_FREE}


def require_classifier(config: EvalConfig) -> None:
    """Raises ConfigError if `classifier` is not set."""
    if not config.classifier:
        raise ConfigError(
            "--classifier is missing: train a C3D with `python -m tganv2_tf.train_classifier`, or use the authors' "
            "conv3d_deepnetA_ucf.npz with their --c3d_mean=mean2.npz"
        )


def require_i3d(i3d: str) -> None:
    """Raises ConfigError if `i3d` is empty."""
    if not i3d:
        raise ConfigError("--i3d is missing: fvd and kvd need an I3D network, a SavedModel or TF-Hub module")


def require_networks(names: Collection[str], config: EvalConfig, i3d: str) -> None:
    """Raises ConfigError if the file of a required network is not set."""
    networks = required_networks(names)
    if "c3d" in networks:
        require_classifier(config)
    if "i3d" in networks:
        require_i3d(i3d)


def require_real_clips(names: Collection[str], data_dir: str) -> None:
    """Raises ConfigError if scores need real clips but `data_dir` is empty."""
    if networks_with_real_clips(names) and not data_dir:
        raise ConfigError("--data_dir is missing: all scores but inception_score and class_accuracy need real videos")
