"""An SVG under construction. Elements are made by ElementTree, so no name from a file can become markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET

FONT_PX = 12
_CHARACTER_PX = 7.2
"""Mean advance of a 12 px system font, rounded up: texts are cut, never let run over the edge."""
COLOURS = 6
"""Classes c0 to c5 of the style sheet, in an order that colour-blind readers can tell apart."""


class Canvas:
    """One drawing with a title and a description for those who don't see it."""

    def __init__(self, name: str, title: str, description: str, width: int) -> None:
        """Start empty; `name` and `width` make its ids unique."""
        self.width = width
        key = f"{name}-{width}"
        self._root = ET.Element("svg", {"role": "img", "aria-labelledby": f"{key}-t {key}-d", "class": "chart"})
        ET.SubElement(self._root, "title", {"id": f"{key}-t"}).text = title
        ET.SubElement(self._root, "desc", {"id": f"{key}-d"}).text = description

    def add(self, shape: str, classes: str, **attributes: float | str) -> ET.Element:
        """Add an element; numbers are rounded to a tenth of a pixel, underscores in names become hyphens."""
        said = {
            k.replace("_", "-"): f"{v:.1f}".removesuffix(".0") if isinstance(v, int | float) else v
            for k, v in attributes.items()
        }
        return ET.SubElement(self._root, shape, {"class": classes, **said})

    def line(self, x1: float, y1: float, x2: float, y2: float, classes: str = "axis") -> None:
        """Draw a line from one point to another."""
        self.add("line", classes, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, x: float, y: float, width: float, height: float, classes: str) -> None:
        """Draw a filled rectangle."""
        self.add("rect", classes, x=x, y=y, width=width, height=height, rx=2.0)

    def text(self, x: float, y: float, text: str, classes: str = "label", *, room: float | None = None) -> None:
        """Add a text with its baseline at `y`, cut to `room` pixels; classes `end` and `mid` align right, centred."""
        fits = max(1, int((room if room is not None else self.width - x) / _CHARACTER_PX))
        shown = text if len(text) <= fits else f"{text[: fits - 1]}…"
        self.add("text", classes, x=x, y=y).text = shown

    def legend(self, y: float, entries: list[tuple[str, str]]) -> float:
        """Swatches (class, text) in as many lines as they need, from `y` down; the `y` below them."""
        x = 0.0
        for classes, text in entries:
            needed = 22.0 + min(len(text), 60) * _CHARACTER_PX
            if x and x + needed > self.width:
                x, y = 0.0, y + 18.0
            self.rect(x, y, 10.0, 10.0, classes)
            self.text(x + 15.0, y + 9.5, text, "small")
            x += needed + 8.0
        return y + 22.0

    def finish(self, height: float) -> str:
        """Write the drawing as SVG text."""
        self._root.set("viewBox", f"0 0 {self.width} {height:.0f}")
        self._root.set("width", str(self.width))
        self._root.set("height", f"{height:.0f}")
        return ET.tostring(self._root, encoding="unicode")
