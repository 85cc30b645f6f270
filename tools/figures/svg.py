"""A small SVG canvas with boxes, arrows and labels. Lengths are in pixels."""

from dataclasses import dataclass, replace
from html import escape
from typing import Final

FONT: Final = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"
INK: Final = "#1f2933"
_ARROW: Final = (
    "<marker id='arrow' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='8' markerHeight='8' "
    f"orient='auto-start-reverse'><path d='M0,1 L9,5 L0,9 z' fill='{INK}'/></marker>"
)


@dataclass(frozen=True, slots=True)
class TextStyle:
    """Appearance of a line of text; *size* is in pixels."""

    size: int = 12
    weight: str = "normal"
    colour: str = INK
    anchor: str = "middle"


_TITLE: Final = TextStyle(size=14, weight="bold")
_LABEL: Final = TextStyle(colour="#52606d")


class Canvas:
    """A picture of *width* by *height* pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self._parts: list[str] = []

    def group(self, x: int, y: int, width: int, height: int, title: str) -> None:
        """Draw a dashed frame around related boxes, with its title at the top left."""
        self._parts.append(
            f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='8' fill='none' "
            f"stroke='#9aa5b1' stroke-dasharray='5 4'/>"
        )
        self._text(x + 10, y + 18, title, replace(_LABEL, anchor="start"))

    def box(self, x: int, y: int, width: int, height: int, *lines: str, fill: str) -> None:
        """Draw a box with centred lines of text; the first one is bold."""
        self._parts.append(
            f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='6' fill='{fill}' "
            f"stroke='{INK}'/>"
        )
        top = y + height / 2 - 8 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            style = TextStyle() if number else _TITLE
            self._text(x + width / 2, top + 16 * number, line, style)

    def arrow(
        self, *points: tuple[int, int], label: str = "", at: tuple[int, int] = (0, 0)
    ) -> None:
        """Draw a line through *points* with an arrowhead, and a label at *at*."""
        path = " L".join(f"{x},{y}" for x, y in points)
        self._parts.append(
            f"<path d='M{path}' fill='none' stroke='{INK}' stroke-width='1.5' "
            "marker-end='url(#arrow)'/>"
        )
        if label:
            self._text(*at, label, _LABEL)

    def _text(self, x: float, y: float, text: str, style: TextStyle) -> None:
        self._parts.append(
            f"<text x='{x:g}' y='{y:g}' font-size='{style.size}' font-weight='{style.weight}' "
            f"fill='{style.colour}' text-anchor='{style.anchor}' {FONT}>{escape(text)}</text>"
        )

    def render(self) -> str:
        """Return the picture as an SVG document."""
        width, height = self._size
        body = "\n".join(self._parts)
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
            f"width='{width}' height='{height}'>\n<defs>{_ARROW}</defs>\n"
            f"<rect width='{width}' height='{height}' fill='white'/>\n{body}\n</svg>\n"
        )
