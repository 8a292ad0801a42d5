"""Inputs are data, never code, and refer to no file outside their own folder. See SECURITY.md."""

from __future__ import annotations

import ast
import io
import json
import pathlib
import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from tests.conftest import ROOT, tiny_config
from tests.data_sets import write_data_set
from tganv2_tf.config import Config
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.runs import Run, latest_checkpoint
from tganv2_tf.sampling import rendering
from tganv2_tf.storage import files

FOLDERS = ("tganv2_tf", "data_prep", "examples", "benchmarks")
# Modules that create objects or code from their input.
MODULES = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "jsonpickle", "marshal", "shelve"),
    *("yaml", "torch", "code", "imp", "xmlrpc"),
}
# By the end of their names.
CALLS = {
    *("eval", "exec", "compile", "__import__", "import_module", "run_path", "exec_module"),
    *("os.system", "os.popen", "getoutput", "getstatusoutput", "create_subprocess_shell"),
    *("tempfile.mktemp", "extractall", "tarfile.open", "unpack_archive", "get_file"),
    *("load_model", "model_from_json", "from_config", "enable_unsafe_deserialization", "load_library"),
    *("saved_model.load", "CheckpointManager", "train.latest_checkpoint", "get_checkpoint_state"),
    *("hub.load", "hub.resolve", "tensorflow_hub.resolve", ".recv"),
}
# Permitted uses and reasons; SECURITY.md lists them.
ALLOWED = {
    # A SavedModel is a program: these flags say so.
    ("tganv2_tf/sampling/sampler.py", "saved_model.load"),
    ("tganv2_tf/evaluation/i3d.py", "saved_model.load"),
    ("benchmarks/stress/load.py", "saved_model.load"),
    ("benchmarks/speed/inference.py", "saved_model.load"),  # written by the benchmark itself
    # The baseline of the package; it loads no files.
    *((f"benchmarks/speed/{name}.py", "torch") for name in ("implementations", "inference", "torch_baseline")),
    *(("benchmarks/speed/torch_baseline.py", name) for name in ("torch.nn", "torch.nn.utils")),
    *(("benchmarks/speed/torch_training.py", f"torch{name}") for name in ("", ".nn", ".nn.utils", ".optim.swa_utils")),
    ("tganv2_tf/evaluation/i3d.py", "tensorflow_hub.resolve"),
    # Python's own objects, between a process and its children.
    ("data_prep/workers.py", ".recv"),
    ("benchmarks/scaling/scaling.py", ".recv"),
    ("benchmarks/scaling/scaling_data.py", "pickle"),  # only to measure the size of Ray's objects
    # OUTPUT.unfinished, which only the same command on the same machine resumes.
    ("tganv2_tf/training/classifiers/trainer.py", "CheckpointManager"),
    # TensorFlow's own loader, called where Python would call it.
    ("tganv2_tf/cli/tensorflow_import.py", "exec_module"),
    # A system of the package, after its name was compared with the list of all systems.
    ("tganv2_tf/systems/__init__.py", "import_module"),
}


def sources() -> Iterator[tuple[str, str]]:
    """Yields name and Python source of each source file and notebook."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()
        for path in sorted((ROOT / folder).rglob("*.ipynb")):
            cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
            text = "\n".join("".join(cell["source"]) for cell in cells).replace("\\\n", " ")
            lines = text.splitlines()
            yield str(path.relative_to(ROOT)), "\n".join(line for line in lines if not line.startswith(("%", "!")))


def called(node: ast.Call) -> str:
    """Returns `a.b.c` for a call `a.b.c(...)`; `.c` if the expression before it is not a name."""
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    parts.append(function.id if isinstance(function, ast.Name) else "")
    return ".".join(reversed(parts))


def findings(text: str) -> list[str]:
    """Returns the uses in a source that could run their input."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
            if isinstance(node, ast.ImportFrom):  # also `from os import system`
                found += [f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in CALLS]
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        for call in CALLS:
            # Methods named `compile`, such as Keras's and `re`'s, are harmless; bare names are Python's built-ins.
            bare = call in ("eval", "exec", "compile", "__import__")
            if name == call or (not bare and f".{name}".endswith(call if call.startswith(".") else f".{call}")):
                found.append(call)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "shell" in given and not (isinstance(given["shell"], ast.Constant) and given["shell"].value is False):
            found.append("shell")
        pickles = given.get("allow_pickle")
        if pickles is not None and not (isinstance(pickles, ast.Constant) and pickles.value is False):
            found.append("allow_pickle")
        if pickles is None and name in ("np.load", "numpy.load", "np.memmap", "np.lib.format.read_array"):
            found.append("allow_pickle")
    return found


def test_the_search_finds_what_it_is_for() -> None:
    for text, name in [
        ("import pickle", "pickle"),
        ("def f():\n    from torch import load", "torch"),
        ("from os import system", "os.system"),
        ("import os; os.system('ls')", "os.system"),
        ("eval(text)", "eval"),
        ("x = builtins; exec(x)", "exec"),
        ("np.load(path)", "allow_pickle"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("np.load(path, allow_pickle=flag)", "allow_pickle"),
        ("subprocess.run(text, shell=True)", "shell"),
        ("tempfile.mktemp()", "tempfile.mktemp"),
        ("tarfile.open(path).extractall(folder)", "extractall"),
        ("tf.keras.models.load_model(path)", "load_model"),
        ("tf.saved_model.load(path)", "saved_model.load"),
        ("connection.recv()", ".recv"),
        ("make().recv()", ".recv"),
    ]:
        assert name in findings(text), text
    assert findings("re.compile('a'); model.compile(x); np.load(p, allow_pickle=False); model.eval()") == []


def test_nothing_that_is_read_can_run_code() -> None:
    found = {(name, what) for name, text in sources() for what in findings(text)}
    assert found <= ALLOWED, sorted(found - ALLOWED)
    assert found == ALLOWED, f"no longer needed: {sorted(ALLOWED - found)}"
    assert len(list(sources())) > 80 and any(name.endswith(".ipynb") for name, _ in sources())


class Hostile:
    """An object that writes a file when unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["objects", "pickle"])
def test_an_archive_with_a_pickle_is_refused_and_runs_nothing(kind: str, tmp_path: pathlib.Path) -> None:
    hostile, mark = tmp_path / "weights.npz", tmp_path / "mark"
    if kind == "objects":
        np.savez(hostile, weights=np.array([Hostile(mark)], object))
    else:
        hostile.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(UserError, match=r"weights\.npz: cannot be read"):
        files.read_npz(hostile, "the authors' code")
    assert not mark.exists()


def test_the_names_in_an_archive_are_no_paths(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    np.savez(folder / "a.npz", **{"../outside": np.zeros(2)})
    assert list(files.read_npz(folder / "a.npz", "us")) == ["../outside"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.npz", "inner"]


@pytest.mark.parametrize("name", ["../shard", "/etc/passwd", "..", "a/b", "..\\shard", ""])
def test_a_manifest_names_files_of_its_own_folder(name: str, tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path, [2], num_shards=1)
    path = tmp_path / "manifest.json"
    loaded = json.loads(path.read_text())
    loaded["shards"][0]["file"] = name
    path.write_text(json.dumps(loaded))
    with pytest.raises(UserError, match="is not a bare file name"):
        Manifest.read(tmp_path)


def test_a_run_names_no_checkpoint_outside_its_folder(tmp_path: pathlib.Path) -> None:
    """TensorFlow's own functions trust the paths in `checkpoint`: they read these files, and delete them later."""
    run, other = tmp_path / "run", tmp_path / "other"
    (run / "checkpoints").mkdir(parents=True)
    other.mkdir()
    (other / "ckpt-9.index").touch()
    (run / "checkpoints" / "checkpoint").write_text('model_checkpoint_path: "../../other/ckpt-9"\n')
    (run / "config.json").write_text(tiny_config().to_json())
    assert latest_checkpoint(str(run)) is None and Run.open(str(run)).checkpoint is None
    (run / "checkpoints" / "ckpt-2.index").touch()
    assert latest_checkpoint(str(run)) == Run.open(str(run)).checkpoint == str(run / "checkpoints" / "ckpt-2")


def test_a_config_holds_settings_and_nothing_else() -> None:
    loaded = json.loads(tiny_config().to_json())
    loaded["train"]["callback"] = "os.system"
    with pytest.raises(UserError, match="callback"):
        Config.from_json(json.dumps(loaded))


def test_class_names_become_no_paths() -> None:
    path = rendering.LatentPath("seed1", 1, np.zeros((1, 2), np.float32))
    names = rendering.select([path], ["../../x", "/etc", "..", "a\\b\0"], range(4)).names
    assert names == ["seed1-..%2F..%2Fx", "seed1-%2Fetc", "seed1-..", "seed1-a%5Cb%00"]
    assert all(len(pathlib.PurePath(name).parts) == 1 for name in names)


def test_saved_text_is_plain(tmp_path: pathlib.Path) -> None:
    """Files that `generate` writes for other programs can also be opened without pickles."""
    from tganv2_tf.video_io import videos

    with videos.open_writer(tmp_path / "a.npz", 1, 10, arrays={"names": np.array(["seed1"])}) as write:
        write(np.zeros((1, 1, 2, 2, 3), np.uint8))
    with np.load(io.BytesIO((tmp_path / "a.npz").read_bytes()), allow_pickle=False) as archive:
        assert archive["names"].tolist() == ["seed1"]
