"""Draws held-out clips of the demo with the model's predictions: the picture of the README.

    python benchmarks/picture.py [--workspace workspace] [--output docs/images/predictions.png]

Needs a workspace in which `slowfast run demo` has finished. Shows one clip of each class: the frames that the Fast
pathway sees, with those of the Slow pathway outlined, and the three most probable classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import slowfast_core as sf
from slowfast_core.data.manifest import read_manifest
from slowfast_core.data.video.decoding import pick_frames
from slowfast_core.recipe.load import load_recipe
from slowfast_core.workspace import Workspace

FRAMES = 9  # shown of each clip
SIDE, GAP, LEFT, HEAD = 72, 4, 12, 44  # pixels
BARS, BAR = 330, 96  # widths of the column of predictions and of a score of 1
INK, SOFT, LINE = (23, 32, 51), (93, 104, 128), (205, 212, 224)
SLOW, RIGHT, WRONG = (37, 99, 235), (37, 99, 235), (217, 70, 39)
COLOURS = 200  # of the palette, which keeps the file small


@dataclass(frozen=True)
class Row:
    """One clip: its class, its frames and what the model predicts."""

    label: str
    frames: list[Image.Image]
    predictions: list[sf.Prediction]


def rows(workspace: Workspace, model: sf.Classifier, stride: int) -> Iterator[Row]:
    """The first held-out video of each class."""
    folder = workspace.data("motion", "ingest")
    manifest = read_manifest(folder / "manifest.parquet").split("val")
    for number, label in enumerate(manifest.labels):
        of_class = manifest.rows["labels"].map(lambda labels, wanted=number: wanted in labels)
        video = folder / manifest.rows[of_class].iloc[0]["path"]
        pictures = pick_frames(video, range(0, FRAMES * stride, stride))
        frames = [Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for picture in pictures]
        yield Row(label, frames, model.predict(video, top=3))


def draw(shown: list[Row], stride: int, alpha: int) -> Image.Image:
    """All rows below a line of headings; every alpha-th frame is one of the Slow pathway."""
    strip = FRAMES * (SIDE + GAP)
    height = HEAD + len(shown) * (SIDE + 3 * GAP) + GAP
    page = Image.new("RGB", (LEFT + strip + BARS, height), "white")
    pen = ImageDraw.Draw(page)
    heading, text = ImageFont.load_default(13), ImageFont.load_default(12)
    for number in range(FRAMES):
        colour = SLOW if number % alpha == 0 else SOFT
        pen.text((LEFT + number * (SIDE + GAP), HEAD - 18), f"frame {number * stride}", colour, text)
    pen.text((LEFT, 6), "Outlined: frames of the Slow pathway. All: frames of the Fast pathway.", INK, heading)
    pen.text((LEFT + strip + 12, HEAD - 18), "prediction", SOFT, text)
    for number, row in enumerate(shown):
        top = HEAD + number * (SIDE + 3 * GAP)
        draw_frames(page, pen, row, top, alpha)
        draw_predictions(pen, row, LEFT + strip + 12, top)
    return page


def draw_frames(page: Image.Image, pen: ImageDraw.ImageDraw, row: Row, top: int, alpha: int) -> None:
    for number, frame in enumerate(row.frames):
        left = LEFT + number * (SIDE + GAP)
        page.paste(frame, (left, top))
        if number % alpha == 0:
            pen.rectangle((left - 2, top - 2, left + SIDE + 1, top + SIDE + 1), outline=SLOW, width=3)


def draw_predictions(pen: ImageDraw.ImageDraw, row: Row, left: int, top: int) -> None:
    text = ImageFont.load_default(12)
    pen.text((left, top), f"true class: {row.label}", INK, text)
    for number, prediction in enumerate(row.predictions):
        line = top + 18 * (number + 1)
        colour = RIGHT if prediction.label == row.label else WRONG if number == 0 else LINE
        pen.rectangle((left, line + 2, left + max(1, round(BAR * prediction.score)), line + 13), fill=colour)
        pen.text((left + BAR + 8, line), f"{100 * prediction.score:.1f} %  {prediction.label}", SOFT, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--model", default="models:/slowfast-demo@champion")
    parser.add_argument("--output", type=Path, default=Path("docs/images/predictions.png"))
    options = parser.parse_args()
    workspace, clip = Workspace.at(options.workspace), load_recipe("demo").clip
    shown = list(rows(workspace, sf.load(options.model, workspace.root), clip.fast_stride))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(shown, clip.fast_stride, clip.alpha).quantize(COLOURS).save(options.output, optimize=True)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
