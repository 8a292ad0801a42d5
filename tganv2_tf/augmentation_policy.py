"""Which augmentations there are, and how `--diffaugment` names them; without TensorFlow, as configuration needs it."""

from __future__ import annotations

from tganv2_tf.errors import ConfigError

POLICIES = ("color", "translation", "cutout")


def parse_policy(text: str) -> tuple[str, ...]:
    """`color,translation` -> ("color", "translation"), in the order in which they are applied; the empty text -> ().

    Raises:
      ConfigError: an unknown name, or one that is given twice.
    """
    if not text.strip():
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(POLICIES) or len(set(names)) < len(names):
        raise ConfigError(
            f"--diffaugment={text}: valid: names out of {','.join(POLICIES)}, each at most once, or nothing for none"
        )
    return names
