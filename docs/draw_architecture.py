"""Draws docs/architecture.svg: the levels of a recipe, the subsampling layers between them, and the discriminators.

python -m docs.draw_architecture
python -m docs.draw_architecture --flagfile=ucf_frame_only.flags --output=frame_only.svg
"""

from __future__ import annotations

import dataclasses
import html
import pathlib
import sys

from tganv2_tf import cli
from tganv2_tf.config import DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.options import option

WIDTH, ROW = 960, 118  # pixels
GENERATOR, RENDER, VIDEO, DISCRIMINATOR, REAL = 30, 250, 370, 535, 720  # left edges of the columns
COLOURS = {"network": "#dbe9f6", "subsampling": "#fde3c8", "video": "#ffffff", "discriminator": "#dff0d8"}
HEIGHT_OF_BOX = 50


@dataclasses.dataclass(frozen=True)
class Command:
    """The figure."""

    output: str = option("SVG file to write", "docs/architecture.svg")


class Drawing:
    """Collects the elements of an SVG file."""

    def __init__(self) -> None:
        self.elements: list[str] = []

    def text(
        self, x: float, y: float, text: str, size: int = 13, anchor: str = "middle", weight: str = "normal"
    ) -> None:
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{html.escape(text)}</text>"
        )

    def box(
        self, x: float, y: float, width: float, lines: list[str], colour: str, height: float = HEIGHT_OF_BOX
    ) -> None:
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{COLOURS[colour]}" '
            'stroke="#444444"/>'
        )
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 5 + 17 * (number - (len(lines) - 1) / 2), line)

    def arrow(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.elements.append(
            f'<polyline points="{path}" fill="none" stroke="#444444" stroke-width="1.5" marker-end="url(#head)"/>'
        )

    def svg(self, width: int, height: int) -> str:
        body = "\n".join(self.elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="Helvetica, Arial, sans-serif">\n'
            '<defs><marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
            '<path d="M0,0 L9,4 L0,8 z" fill="#444444"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def draw(model: ModelConfig, batch_size: int) -> str:
    """Returns the figure of a model as SVG, with the shapes of a training step with `batch_size` clips."""
    drawing, levels = Drawing(), model.pyramid.levels
    top = 110
    for x, width, title in (
        (GENERATOR, 190, "Generator G"),
        (VIDEO, 140, "generated videos"),
        (DISCRIMINATOR, 120, "discriminators"),
        (REAL, 175, "real videos, S^D"),
    ):
        drawing.text(x + width / 2, 28, title, 15, weight="bold")
    drawing.box(GENERATOR, 46, 190, [f"z, {model.z_dim} dimensions"], "video", 34)
    first, last = levels[0], levels[-1]
    drawing.box(REAL, 46, 175, [f"clips {batch_size} x {model.num_frames} x {last.size} x {last.size}"], "video", 34)
    for level in levels:
        y = top + ROW * (level.number - 1)
        middle = y + HEIGHT_OF_BOX / 2
        shape = f"{level.batch_size(batch_size)} x {level.frames} x {level.size} x {level.size}"
        blocks = "linear, ConvLSTM, up blocks" if level is first else "up block"
        drawing.box(GENERATOR, y, 190, [f"level {level.number}", blocks], "network")
        drawing.arrow((GENERATOR + 95, y - (30 if level is first else 22)), (GENERATOR + 95, y))
        drawing.box(RENDER, y, 95, ["rendering"], "network")
        drawing.arrow((GENERATOR + 190, middle), (RENDER, middle))
        drawing.box(VIDEO, y, 140, [shape], "video")
        drawing.arrow((RENDER + 95, middle), (VIDEO, middle))
        drawing.box(DISCRIMINATOR, y, 120, [f"D{level.number}", "3D ResNet"], "discriminator")
        drawing.arrow((VIDEO + 140, middle), (DISCRIMINATOR, middle))
        drawing.box(REAL, y, 175, [shape], "video")
        drawing.arrow((REAL, middle), (DISCRIMINATOR + 120, middle))
        drawing.arrow((REAL + 175, 63), (REAL + 195, 63), (REAL + 195, middle), (REAL + 175, middle))
        drawing.text(REAL + 87, y + HEIGHT_OF_BOX + 16, _kept(model.num_frames // level.frames, level.clip_stride), 11)
        factor = last.size // level.size
        drawing.text(REAL + 87, y + HEIGHT_OF_BOX + 31, f"mean over {factor}x{factor} pixels" if factor > 1 else "", 11)
        if level is not last:
            kept = _kept(model.frame_strides[level.number - 1], model.batch_strides[level.number - 1])
            drawing.box(GENERATOR, y + HEIGHT_OF_BOX + 12, 190, [f"S^G: {kept}"], "subsampling", 34)
            drawing.arrow((GENERATOR + 95, y + HEIGHT_OF_BOX), (GENERATOR + 95, y + HEIGHT_OF_BOX + 12))
    bottom = top + ROW * len(levels) - 26
    drawing.text(WIDTH / 2, bottom, "Shapes are clips x frames x height x width in a training step.", 12)
    drawing.text(
        WIDTH / 2, bottom + 18, "In inference there is no S^G: the last level renders all frames, of any number.", 12
    )
    return drawing.svg(WIDTH, bottom + 36)


def _kept(frames: int, clips: int) -> str:
    kept = [f"1 of {count} {what}" for count, what in ((frames, "frames"), (clips, "clips")) if count > 1]
    return ", ".join(kept) or "all frames and clips"


def main(command: Command, model: ModelConfig, data: DataConfig, train: TrainConfig, eval: EvalConfig) -> int:
    pathlib.Path(command.output).write_text(draw(model, train.global_batch_size))
    print(command.output)
    return 0


if __name__ == "__main__":
    argv = None if sys.argv[1:] else ["--flagfile=ucf.flags"]
    options = (Command, ModelConfig, DataConfig, TrainConfig, EvalConfig)
    sys.exit(cli.run(main, options, "docs.draw_architecture", __doc__, argv))
