"""The import hook of the commands, in a separate process, because TensorFlow is imported only once per process."""

import contextlib
import gc
import importlib.util
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tganv2_tf.cli import tensorflow_import

SCRIPT = """
import gc, sys
import scipy
from tganv2_tf.cli import tensorflow_import
tensorflow_import.install()
tensorflow_import.install()
assert [type(finder) for finder in sys.meta_path].count(tensorflow_import._Finder) == 1
frozen = gc.get_freeze_count()
import tensorflow as tf
model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
assert type(tf.__spec__.loader).__module__ != tensorflow_import.__name__  # the loader that tools expect
assert sys.modules["scipy"] is scipy  # what was there stays
assert gc.isenabled() and gc.get_freeze_count() > frozen + 50_000
assert "pandas" not in sys.modules
try:
    import pandas  # a user's own import works
    print("pandas", pandas.DataFrame({"a": [1, 2]}).a.sum())
except ModuleNotFoundError as error:
    print(error)
print(model(tf.ones([1, 2])).shape)
"""


def test_tensorflow_is_imported_without_what_it_does_not_need() -> None:
    finished = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    there = importlib.util.find_spec("pandas") is not None
    assert finished.stdout.splitlines() == ["pandas 3" if there else "No module named 'pandas'", "(1, 1)"]


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_as_before(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with contextlib.suppress(ZeroDivisionError), tensorflow_import._no_collection():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
        gc.unfreeze()
