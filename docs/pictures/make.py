"""Draw the pictures of docs/editing.md from what ships with the package: `python docs/pictures/make.py [TASK ...]`.

The demo model, its four packaged photographs, and for each a seed chosen by eye from 0 to 5.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.parity.metrics import as_bytes
from cmexport.photos import read_photo
from cmexport.runner import Array
from cmexport.sampling.schedules import schedule_for_steps
from cmexport.sources import draw_between, draw_pictures, shown_to_people, source_from_model

HERE = Path(__file__).resolve().parent
PHOTOS = (("airplane-1", 0), ("automobile-0", 1), ("horse-0", 7), ("ship-0", 8))
SCALE, GAP, CAPTION = 4, 6, 18
SIZE = 32


@dataclass(frozen=True)
class Figure:
    """One task: columns of (caption, levels or number of steps), and a seed for each photograph."""

    task: str
    known: str
    columns: tuple[tuple[str, int | tuple[float, ...]], ...]
    seeds: tuple[int, int, int, int]
    patch: int | None = None


FIGURES = (
    Figure("inpaint", "masked", (("4 steps", 4), ("13 steps", 13), ("39 steps", 39)), (3, 0, 3, 4)),
    Figure("colorize", "grey", (("4 steps", 4), ("13 steps", 13), ("39 steps", 39)), (3, 1, 1, 5)),
    Figure("superres", "8 x 8", (("1 step", 1), ("4 steps", 4), ("39 steps", 39)), (5, 5, 2, 1), patch=4),
    Figure("stroke", "sketch", (("sigma 1", (1.0,)), ("1.5, 0.6", (1.5, 0.6)), ("1, 0.4", (1.0, 0.4))), (0, 0, 1, 2)),
    Figure("denoise", "noisy", (("one step", (0.5,)),), (0, 0, 0, 0)),
)


def given_to(figure: Figure, photo: Array, seed: int) -> dict[str, Array]:
    """Return what the graph is fed besides noise."""
    if figure.task == "inpaint":
        mask = np.ones((1, SIZE, SIZE), dtype=np.float32)
        mask[:, 11:21, 11:21] = 0.0
        return {"image": photo, "mask": mask}
    if figure.task == "stroke":
        # A sketch: the photograph in six flat colours without detail.
        picture = Image.fromarray(as_bytes(photo[None])[0]).resize((4 * SIZE, 4 * SIZE))
        flat = picture.filter(ImageFilter.ModeFilter(13)).quantize(6).convert("RGB")
        sketch = np.asarray(flat.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32)
        return {"image": sketch.transpose(2, 0, 1) / np.float32(127.5) - 1}
    if figure.task == "denoise":
        noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(seed)).numpy()
        return {"image": photo + np.float32(0.5) * noise}
    return {"image": photo}


def draw(model: ConsistencyModel, figure: Figure) -> None:
    """One PNG: a row for each photograph."""
    rows = []
    for (name, label), seed in zip(PHOTOS, figure.seeds, strict=True):
        photo, _ = read_photo(Path(str(demo_checkpoint())).parent / "pictures" / f"{name}.jpg", SIZE, 3)
        given = given_to(figure, photo, seed)
        row = [photo]
        for index, (_, steps) in enumerate(figure.columns):
            levels = steps if isinstance(steps, tuple) else schedule_for_steps(model, steps, figure.task).sigmas
            source = source_from_model(model, SampleRequest(sigmas=levels, task=figure.task, patch=figure.patch))
            if index == 0:
                row.append(shown_to_people(source, given))
            row.append(draw_pictures(source, 1, seed, label, given=given)[0])
        rows.append(row)
    save(HERE / f"{figure.task}.png", ["photograph", figure.known, *(caption for caption, _ in figure.columns)], rows)


def save(path: Path, captions: Sequence[str], rows: Sequence[Sequence[Array]]) -> None:
    """Make a sheet of enlarged pictures under captions."""
    cell = SIZE * SCALE + GAP
    sheet = Image.new("RGB", (len(rows[0]) * cell + GAP, len(rows) * cell + CAPTION + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        pen.text((GAP + column * cell, 4), caption, fill="black")
    for top, row in enumerate(rows):
        for column, picture in enumerate(row):
            pixels = Image.fromarray(as_bytes(picture[None])[0])
            large = pixels.resize((SIZE * SCALE, SIZE * SCALE), Image.Resampling.NEAREST)
            sheet.paste(large, (GAP + column * cell, CAPTION + top * cell))
    sheet.save(path, optimize=True)


def main() -> None:
    """All figures, or those named."""
    model = load_checkpoint(demo_checkpoint())
    wanted = sys.argv[1:] or [*(figure.task for figure in FIGURES), "interpolate"]
    for figure in FIGURES:
        if figure.task in wanted:
            draw(model, figure)
    if "interpolate" not in wanted:
        return
    source = source_from_model(model, SampleRequest())
    rows = [list(draw_between(source, 8 * k, 8 * k + 5, 8, label)) for k, label in enumerate((1, 8))]
    save(HERE / "interpolate.png", ["seed A", *[""] * 6, "seed B"], rows)


if __name__ == "__main__":
    main()
