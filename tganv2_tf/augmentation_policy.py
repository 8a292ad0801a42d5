"""Names of the augmentations for `--diffaugment`. Imports no TensorFlow, because the configuration uses it."""

from __future__ import annotations

from tganv2_tf.errors import ConfigError

POLICIES = ("color", "translation", "cutout")


def parse_policy(text: str) -> tuple[str, ...]:
    """Parses a policy: `color,translation` -> ("color", "translation"), in the order of application; "" -> ().

    Raises:
      ConfigError: a name is unknown or repeated.
    """
    if not text.strip():
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(POLICIES) or len(set(names)) < len(names):
        raise ConfigError(
            f"--diffaugment={text}: valid: names out of {','.join(POLICIES)}, each at most once, or nothing for none"
        )
    return names
