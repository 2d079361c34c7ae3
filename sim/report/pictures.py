"""Pictures as files and in pages: PNG and SVG, light and dark, at their own size."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from scheduler import whole
from sim.report.lettering import families, no_word_of_missing_letters

INK = "#1a1a1a"  #: text, axes and outlines
GRID = "#e3e3e3"
HATCH = "#ffffff"  #: the lines of patterns
PAPER = "#fefefe"  #: what an open marker has inside: the colour of the page
PNG_DPI = 150
CSS_PX_PER_INCH = 96
LONGEST_NAME = 80  #: letters of a file name before its ending
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "hatch.color": HATCH,
    "svg.fonttype": "none",
    "svg.hashsalt": "muster",
}
#: what colours become in a page that is dark; colours of reasons stay
DARK = {
    INK: "#e4e4e4",
    GRID: "#4a4f57",
    PAPER: "#131619",
    "#0b3c6f": "#8fbdea",
    "#4b4b4b": "#b5b5b5",
    "#b3440e": "#e8824f",
    "#2f7d4f": "#6cc08e",
    "#ececec": "#343942",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in its files, and what it shows in words."""

    name: str  #: of its files
    alt: str
    png: bytes
    svg: bytes
    width_px: int  #: at its own size
    height_px: int

    def write(self, folder: Path) -> None:
        """Write both forms."""
        whole.write_bytes(folder / f"{self.name}.png", self.png)
        whole.write_bytes(folder / f"{self.name}.svg", self.svg)

    def img(self) -> str:
        """Return the picture as HTML for a page: it needs no file, and turns dark with the page."""
        size = f'width="{self.width_px}" height="{self.height_px}" style="--own: {self.width_px}px"'
        address, alt = escape(_data_uri(self.svg)), escape(self.alt)
        return f'<img src="{address}" alt="{alt}" {size} loading="lazy">'


@contextmanager
def drawing(names: Iterable[str] = ()) -> Iterator[None]:
    """Make figures in here: in the style of the report, with letters for what `names` contain."""
    with mpl.rc_context({**STYLE, "font.family": families(names)}):
        yield


def render(figure: Figure, name: str, alt: str) -> Picture:
    """Return a figure that was made within `drawing` as PNG and SVG, drawn once for each.

    `name` may hold any letters.
    """
    figure.set_dpi(PNG_DPI)
    figure.set_facecolor("white")
    png, svg = io.BytesIO(), io.StringIO()
    with mpl.rc_context(STYLE), no_word_of_missing_letters():
        pixels: Any = FigureCanvasAgg(figure)  # matplotlib types neither of these
        pixels.print_png(png, metadata={"Software": None})
        figure.set_layout_engine("none")  # it is laid out: the same picture in another form
        figure.set_facecolor("none")
        for axes in figure.axes:
            axes.set_facecolor("none")
        lines: Any = FigureCanvasSVG(figure)
        lines.print_svg(svg, metadata={"Date": None, "Creator": None})
    width_px, height_px = (round(inches * CSS_PX_PER_INCH) for inches in figure.get_size_inches())
    text = _compact(svg.getvalue())
    return Picture(file_name(name), alt, png.getvalue(), text.encode(), width_px, height_px)


def file_name(name: str) -> str:
    """Return a name that any file system, address and Markdown link takes as it is.

    Names of which something was left out end in a hash, so that different ones stay different.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:LONGEST_NAME].lstrip(".")
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


_LONG_PATH = re.compile(r' d="(M [-ML\d. \nz]{600,})"')


def _compact(svg: str) -> str:
    """Shorten the long paths of an SVG: steps to a tenth of a point, relative to the last one.

    Patterns of dots become arcs: as the curves of matplotlib one took 150 kB in each picture.
    """
    svg = _DOTS.sub(lambda found: f'{found[1]} d="{"".join(_arcs(found[2]))}"', svg)
    return _LONG_PATH.sub(lambda found: f' d="{"".join(_steps(found[1]))}"', svg)


_DOTS = re.compile(r'(<pattern [^>]*>(?:(?!</pattern>).)*<path) d="(M [-MCz\d. \n]+)"', re.S)


def _arcs(path: str) -> Iterator[str]:
    """Yield each circle of a path of Bezier curves as two arcs."""
    for piece in path.split("M")[1:]:
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", piece)]
        xs, ys = numbers[::2], numbers[1::2]
        radius, y = (max(xs) - min(xs)) / 2, (min(ys) + max(ys)) / 2
        arc = f"a{radius:.2f} {radius:.2f} 0 1 0"
        yield f"M{min(xs):.2f} {y:.2f}{arc} {2 * radius:.2f} 0{arc} {-2 * radius:.2f} 0z"


def _steps(path: str) -> Iterator[str]:
    for piece in path.split("M")[1:]:
        numbers = [round(float(number) * 10) for number in re.findall(r"[-\d.]+", piece)]
        (x, y), aside = numbers[:2], 0  # steps to the side that follow each other are one
        yield f"M{x / 10:g} {y / 10:g}"
        for next_x, next_y in zip(numbers[2::2], numbers[3::2], strict=True):
            across, down = next_x - x, next_y - y
            x, y = next_x, next_y
            if down == 0 and aside * across >= 0:
                aside += across
                continue
            yield from _aside(aside)
            aside = 0
            if down == 0:
                aside = across
            else:
                yield f"l{across / 10:g} {down / 10:g}" if across else f"v{down / 10:g}"
        yield from _aside(aside)
        if "z" in piece:
            yield "z"


def _aside(tenths: int) -> Iterator[str]:
    if tenths:
        yield f"h{tenths / 10:g}"


def _data_uri(svg: bytes) -> str:
    """Return an SVG as an address that holds it, with colours for dark pages."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    begin = text.index(">") + 1
    body = re.sub(r"\s*\n\s*", " ", text[begin:])
    styled = f"{text[:begin]}<style>{_dark_rules()}</style>{body}"
    return "data:image/svg+xml," + quote(styled, safe=" !$()*+,-./:;=?@_~'")


def _dark_rules() -> str:
    rules: Sequence[str] = [
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    ]
    return f"@media (prefers-color-scheme: dark){{{''.join(rules)}}}"
