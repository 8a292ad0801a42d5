"""A run in TensorBoard, seen in a real browser: scalars, moving previews, settings, the table of runs."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2, metadata

from tests.browser import chromium, open_page, serving
from tests.conftest import tiny_config
from tests.data_sets import write_data_set
from tganv2_tf.evaluation.protocol import Score
from tganv2_tf.evaluation.report import show_scores
from tganv2_tf.runs import Run
from tganv2_tf.training import loop
from tganv2_tf.training.hparams import hparams, record_hparams

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

STEPS = 2


def entries(run: pathlib.Path) -> tuple[list[Any], list[Any]]:
    """Returns the rows that the HParams plugin finds in a run's events, and their final states."""
    started, ended = [], []
    for path in sorted((run / "events").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    started.append(metadata.parse_session_start_info_plugin_data(content))
                elif value.tag == metadata.SESSION_END_INFO_TAG:
                    ended.append(metadata.parse_session_end_info_plugin_data(content))
    return started, ended


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two runs: `trained` is finished and scored; `begun` was started twice, the second time with other settings."""
    folder = tmp_path_factory.mktemp("runs")
    logs = folder / "logs"
    write_data_set(folder / "data", [8] * 8)
    often: dict[str, Any] = {
        "log_every_steps": 1,
        "preview_every_steps": 1,
        "num_previews": 2,
        "distribution": "one_device",
    }
    where: dict[str, Any] = {"data": {"data_dir": str(folder / "data")}, "model_dir": str(logs / "trained")}
    tf.config.run_functions_eagerly(True)  # a graph takes longer than two steps
    try:
        assert loop.train(tiny_config(**where, **often, train_steps=STEPS, r1_weight=0.0)) == 0
    finally:
        tf.config.run_functions_eagerly(False)
    scores = {"inception_score": Score.from_values([2.5, 3.5]), "c3d_fid": Score.from_values([1234.5])}
    show_scores(where["model_dir"], scores, STEPS)
    for r1_weight in (4.0, 0.75):
        record_hparams(tiny_config(model_dir=str(logs / "begun"), r1_weight=r1_weight))
    return logs


def test_the_settings_are_flags_by_name_without_those_of_bookkeeping() -> None:
    settings = hparams(tiny_config(model={"frame_strides": (2,)}, model_dir="somewhere", r1_weight=3.0))
    assert settings["frame_strides"] == "2" and settings["up_channels"] == "4,4,4,4"
    assert settings["r1_weight"] == 3.0 and settings["flip"] is True and settings["loss"] == "non_saturating"
    assert not {"model_dir", "num_previews", "profile_steps", "checkpoint_every_steps"} & set(settings)


def test_a_run_has_a_row_with_its_settings_and_says_that_it_has_ended(log_dir: pathlib.Path) -> None:
    started, ended = entries(log_dir / "trained")
    (row,) = started
    assert row.group_name == f"trained in {log_dir}"
    assert row.hparams["train_steps"].number_value == STEPS
    assert row.hparams["up_channels"].string_value == "4,4,4,4"
    assert set(row.hparams) == set(hparams(Run.open(str(log_dir / "trained")).config))
    assert [end.status for end in ended] == [api_pb2.STATUS_SUCCESS]
    # TensorBoard may read the files in this order, and never rereads an earlier one. Files of the same second are
    # ordered by the number of the writer as text, so that 10 is before 9 but not before 0.
    assert min(path.name for path in (log_dir / "trained" / "events").iterdir()).endswith(".0.hparams")


def test_a_run_taken_up_again_has_one_row_with_the_settings_that_it_has_now(log_dir: pathlib.Path) -> None:
    started, ended = entries(log_dir / "begun")
    assert [row.hparams["r1_weight"].number_value for row in started] == [0.75]
    assert ended == []


@pytest.fixture(scope="module")
def tensorboard(log_dir: pathlib.Path) -> Iterator[tuple[Page, str, list[str]]]:
    with chromium() as browser:
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir={log_dir}", "--host=127.0.0.1", "--port=0"]
        with serving(command) as (_, address):
            page, others = open_page(browser, width=2000)
            yield page, address, others


def middle(cell: Locator) -> float:
    """Returns the vertical centre of a cell on the page, in pixels."""
    box = cell.bounding_box()
    assert box is not None
    return box["y"] + box["height"] / 2


@pytest.mark.slow
def test_a_browser_shows_it_all(tensorboard: tuple[Page, str, list[str]], log_dir: pathlib.Path) -> None:
    page, address, others = tensorboard
    page.goto(f"{address}/#scalars")
    for tag in ("train/generator_loss", "eval/inception_score"):
        page.get_by_text(tag, exact=True).first.wait_for(state="attached")

    page.goto(f"{address}/#images")
    for level, size in ((1, 8), (2, 16)):
        card = page.locator("tf-image-loader").filter(has_text=f"samples/level_{level}")
        image = card.locator("img[src*=individualImage]")
        image.wait_for()
        # Two previews side by side, separated by two black pixels.
        shown = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        assert image.evaluate(shown) == [2 * size + 2, size]
        answer = page.request.get(image.evaluate("image => image.src"))
        assert answer.headers["content-type"] == "image/gif"
        assert len(iio.imread(answer.body(), extension=".gif", plugin="pillow")) == 4

    page.goto(f"{address}/#text")
    page.get_by_text(re.compile(r'"z_dim": 4\b')).first.wait_for()

    page.goto(f"{address}/#hparams")
    cells = page.locator("vaadin-grid-cell-content")
    trained, begun = (cells.filter(has_text=f"{name} in {log_dir}") for name in ("trained", "begun"))
    trained.wait_for()
    for shown, row in (("0.75000", begun), ("3.0000", trained), ("1234.5", trained)):  # r1_weight and the scores
        cell = cells.get_by_text(shown, exact=True)
        assert middle(cell) == pytest.approx(middle(row), abs=5), shown
    headers = {text.strip() for text in cells.all_inner_texts()}
    assert {"r1_weight", "eval/inception_score", "eval/c3d_fid"} <= headers
    assert others == [], "TensorBoard shows all this without any other host"
