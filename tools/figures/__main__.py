"""Draw the figures of the documentation to docs/images: `python -m tools.figures`."""

from pathlib import Path
from typing import Final

from tools.figures.data_flow import draw

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
FIGURES: Final = {"data-flow.svg": draw}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw_figure in FIGURES.items():
        (FOLDER / name).write_text(draw_figure())
