"""examples/quickstart.ipynb: every cell runs at tiny sizes, and the stored outputs are small and complete.

`python -m tests.test_notebook` runs it in full and stores it again with its outputs, without progress bars and logs.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from tests.small_runs import write_demo_generator

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
SHOWN = {"image/png", "image/gif"}
# Replaces the settings of its first cell. Later flags take precedence. tests/test_package.py loads the demo generator.
TINY = {
    "STEPS = 150": "STEPS = 2",
    "VIDEOS = 8": "VIDEOS = 5",
    "--model_dir=examples/demo_generator": "--model_dir=demo_generator",
    'FLAGS = ""': 'FLAGS = "--frame_strides= --batch_strides= --lstm_channels=2 --up_channels=2,2,2 '
    '--discriminator_channels=2 --global_batch_size=2"',
}
# As in tests.quickly.
STEP_BY_STEP = "import tensorflow as tf\ntf.config.run_functions_eagerly({})"


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path) -> nbformat.NotebookNode:
    """Runs all cells in a folder that looks like the repository and receives their outputs."""
    for name in ("tganv2_tf", "data_prep", "examples", "flags"):
        (folder / name).symlink_to(ROOT / name)
    # Otherwise the output contains TensorFlow's start-up messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns the kinds of the displayed pictures in order."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [kind for output in outputs for kind in output.get("data", {}) if kind in SHOWN]


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_every_cell_runs(stored, tmp_path):
    notebook = nbformat.from_dict(json.loads(json.dumps(stored)))
    for full, tiny in TINY.items():
        assert notebook.cells[1].source.count(full) == 1, full
        notebook.cells[1].source = notebook.cells[1].source.replace(full, tiny)
    (training,) = (cell for cell in code_cells(notebook) if "tganv2_tf.train " in cell.source)
    training.source = f"{STEP_BY_STEP.format(True)}\n{training.source}\n{STEP_BY_STEP.format(False)}"
    write_demo_generator(tmp_path / "demo_generator")
    executed = execute(notebook, tmp_path)
    made = tmp_path / "demo" / "quickstart"
    assert pictures(executed) == ["image/png", "image/png", "image/png", "image/gif", "image/png"]
    assert list((made / "run" / "checkpoints").glob("ckpt-2.index"))
    assert {"samples.png", "classes.gif", "levels.png", "long.mp4"} <= {path.name for path in made.iterdir()}
    said = "".join(output.get("text", "") for cell in code_cells(executed) for output in cell.outputs)
    assert f"{made.relative_to(tmp_path)}/data: no faults" in said
    assert "CircleDown uint8 (2, 16, 32, 32, 3)" in said


def test_what_is_stored_can_be_shown(stored):
    nbformat.validate(stored)
    cells = code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom"
    assert pictures(stored) == ["image/png", "image/png", "image/png", "image/gif", "image/png"]
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert NOTEBOOK.stat().st_size < 300 * 1024
    text = NOTEBOOK.read_text()
    assert str(ROOT) not in text and str(pathlib.Path.home()) not in text, "paths of the machine where it was run"


def refresh() -> None:
    """Runs the notebook in full and stores it with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(nbformat.read(NOTEBOOK, as_version=4), pathlib.Path(folder))
    for cell in code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        cell.metadata.clear()  # execution times
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    refresh()
