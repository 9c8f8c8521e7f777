"""An artefact's contact sheet, read with care and packed for the page."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cmexport.report.gathering import FoundArtifact

_MOST_BYTES = 32_000_000
_MOST_PIXELS = 40_000_000
_EMBEDDED_BYTES = 700_000
"""Of one sheet in the page: eight pictures of 256 x 256 pixels have 3 MB, and a page is mailed around."""


@dataclass(frozen=True)
class Picture:
    """A sheet as a `data:` address, its size as shown, and its file."""

    data: str
    width: int
    height: int
    path: Path


def read_picture(artifact: FoundArtifact) -> Picture | str:
    """Read the sheet, or say why there is none.

    The file must be the manifest's own (size and hash), inside the folder, and a PNG of a sane size; it is decoded and
    written anew, so that nothing but pixels gets into the page. Sheets that are too large for a page are halved.
    """
    previews = [f for f in artifact.manifest.files if f.role == "preview"]
    if not previews:
        return "no preview.png: it is drawn when the artefact is verified"
    path = artifact.folder / previews[0].path
    try:
        if not path.resolve().is_relative_to(artifact.folder.resolve()) or not path.is_file():
            return f"{previews[0].path} is missing, or lies outside the artefact"
        if path.stat().st_size > _MOST_BYTES:
            return f"{previews[0].path} is too large for a picture"
        content = path.read_bytes()
    except OSError as error:
        return f"{previews[0].path} can't be read: {error.strerror}"
    if hashlib.sha256(content).hexdigest() != previews[0].sha256:
        return f"{previews[0].path} was changed since the artefact was written"
    try:
        # The size is in the header: refused before a bomb is unpacked.
        with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                return f"{previews[0].path} has {opened.width} x {opened.height} pixels, too many for a page"
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return f"{previews[0].path} is not a PNG picture"
    packed = _packed(image)
    while len(packed) > _EMBEDDED_BYTES and min(image.size) > 64:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        packed = _packed(image)
    data = f"data:image/png;base64,{base64.b64encode(packed).decode()}"
    return Picture(data, image.width, image.height, path)


def _packed(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
