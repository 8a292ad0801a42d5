"""The figure of the architecture shows the recipe of the paper as it is."""

from __future__ import annotations

from docs.draw_architecture import draw
from tests.conftest import ROOT
from tganv2_tf import cli
from tganv2_tf.config import DataConfig, EvalConfig, ModelConfig, TrainConfig


def test_the_figure_in_the_documents_is_that_of_the_recipe() -> None:
    parts = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
    model, _, train, _ = cli.parse(["--flagfile=ucf.flags"], *parts)
    figure = (ROOT / "docs" / "architecture.svg").read_text()
    assert draw(model, train.global_batch_size) == figure, "run `python -m docs.draw_architecture`"
    for shape in ("64 x 16 x 24 x 24", "32 x 8 x 48 x 48", "16 x 4 x 96 x 96", "8 x 2 x 192 x 192"):  # paper, Table 1
        assert figure.count(f">{shape}<") == 2, "generated and real videos"
