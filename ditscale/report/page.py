"""One self-contained HTML page with figures, data and scripts, for light and dark themes, phones and print.

Every text from a table, a config or a path goes through ``escape`` or, within a script, ``embedded_json``. Without
scripts, the page lacks only the explorer, the slider of images to be made, and the sorting of tables.
"""

import base64
import gzip
import html
import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ditscale.figures.kit import style
from ditscale.models.blocks import DESIGNS
from ditscale.models.blocks.design import BlockDesign
from ditscale.objectives import AUXILIARY, VARIANTS, Auxiliary, Variant

# The CSS variable for each color of the figures: (variable, value in the light theme, value in the dark theme).
THEME = [
    ("ink", style.INK, "#e9ebee"),
    ("muted", style.MUTED, "#a3abb6"),
    ("line", style.GRID, "#343a44"),
    ("paper", style.PAPER, "#15181d"),
    ("band", style.BAND, "#7d8794"),
    ("patch2", style.PATCH_COLORS[2], "#6ea8ea"),
    ("patch4", style.PATCH_COLORS[4], "#e5735a"),
    ("patch8", style.PATCH_COLORS[8], "#f3c44f"),
]
_kinds: list[tuple[str, type[Variant] | type[Auxiliary] | BlockDesign]] = [*VARIANTS.items(), *AUXILIARY.items(), *DESIGNS.items()]
for _name, _kind in _kinds:                     # a design may share a variant's color, or the ink color
    if _kind.color not in {light for _, light, _ in THEME}:
        THEME.append((_name, _kind.color, _kind.dark_color))

# With this policy the browser loads nothing from elsewhere, whatever text the page contains.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
MOST_ROWS = 300                                                                # of a table
SMALL_FILE, LARGEST_FILE = 100_000, 8_000_000                                  # bytes of a file in the page: as it is, and at all
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


class Cell(NamedTuple):
    """A table cell that is sorted by its value, not by its text. NaN comes last."""

    text: str
    value: float

    def __str__(self) -> str:
        return self.text


def escape(value) -> str:
    return html.escape(str(value), quote=True)


def prose(text: str) -> str:
    """Escaped text with ``C^−α`` set as a superscript."""
    return re.sub(r"\^([−-]?\w+)", r"<sup>\1</sup>", escape(text))


def render(title: str, eyebrow: str, body: str, footer: str, scripts: Sequence[str] = ()) -> str:
    """The whole page. ``body`` is HTML and ``scripts`` are JavaScript; the other texts are escaped here."""
    light = "".join(f"--{name}:{color};" for name, color, _ in THEME)
    dark = "".join(f"--{name}:{color};" for name, _, color in THEME)
    variables = (f":root{{color-scheme:light dark;{light}}}\n"
                 f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}")
    run = "".join(f"<script>\n{script}</script>\n" for script in scripts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>{escape(title)}</title>\n'
        f"<style>\n{variables}\n{CSS.strip()}\n</style>\n</head>\n<body>\n<main>\n"
        f'<p class="eyebrow">{escape(eyebrow)}</p>\n<h1>{escape(title)}</h1>\n{body}\n'
        f"<footer>{escape(footer)}</footer>\n</main>\n{run}</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def findings(sentences: list[str]) -> str:
    return '<ul class="findings">\n' + "\n".join(f"<li>{prose(s)}</li>" for s in sentences) + "\n</ul>"


def verdicts(rows: list[tuple[str, list[tuple[str, str]]]]) -> str:
    """A list of verdicts: each with its name, and a verdict word ("" for none) before each of its sentences."""
    def verdict(word: str, text: str) -> str:
        kind = word.lower().replace(" ", "-")
        badge = f'<b class="badge {kind}">{escape(word)}</b> ' if word else ""
        return badge + prose(text)

    items = [f"<li><strong>{escape(name)}</strong> " + "<br>".join(verdict(*part) for part in parts) + "</li>" for name, parts in rows]
    return '<ul class="verdicts">\n' + "\n".join(items) + "\n</ul>"


def paragraph(text: str) -> str:
    return f"<p>{prose(text)}</p>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """A warning from a run."""
    return f'<p class="warning"><strong>Warning</strong> from {escape(text)}</p>'


def figure(drawing: style.Drawing, svg: str) -> str:
    """The drawing inline, with its caption; ``svg`` is the text of the file that ``style.save`` wrote."""
    label = escape(drawing.caption.split(". ")[0] + ".")
    return (f"<figure>\n{inline_svg(svg, drawing.name, label)}\n"
            f"<figcaption>{prose(drawing.caption)}</figcaption>\n</figure>")


def inline_svg(svg: str, name: str, label: str) -> str:
    """An SVG file as an element: no prologue, ids unique on the page, colors that follow the theme, size set by CSS."""
    svg = svg[svg.index("<svg"):].strip()
    svg = re.sub(r"([1-9]\d*\.\d\d)\d+", r"\1", svg)                            # coordinates to 1/100 point: a quarter of the bytes; scales are below 1
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for variable, color, _ in THEME:
        svg = re.sub(rf"{color}\b", f"var(--{variable})", svg, flags=re.IGNORECASE)
    view_box = re.search(r'viewBox="([^"]+)"', svg)[1]
    return re.sub(r"<svg[^>]*>", f'<svg viewBox="{view_box}" role="img" aria-label="{label}">', svg, count=1)


def table(headers: list[str], rows: Iterable[Sequence], numbers: Collection[int] = (), sortable: bool = False) -> str:
    """A table that scrolls sideways if the window is narrow; the columns ``numbers`` are aligned right. Of many rows it has the first ``MOST_ROWS``.

    A click on a header of a ``sortable`` table sorts it, numerically if the column has only numbers; a ``Cell`` has its own sort value.
    """
    def line(cells, tag):
        return "<tr>" + "".join(f'<{tag}{" class=number" if i in numbers else ""}{_sorts_by(cell)}>{escape(cell)}</{tag}>'
                                for i, cell in enumerate(cells)) + "</tr>"

    rows = list(rows)
    head, body = line(headers, "th"), "\n".join(line(row, "td") for row in rows[:MOST_ROWS])
    kind = ' class="sortable"' if sortable else ""
    text = f'<div class="scroll"><table{kind}>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    if len(rows) <= MOST_ROWS:
        return text
    return f"{text}\n{note(f'The first {MOST_ROWS} of {len(rows):,} rows; table.csv next to this page has the measured numbers of all.')}"


def _sorts_by(cell) -> str:
    if not isinstance(cell, Cell):
        return ""
    return f' data-value="{"" if math.isnan(cell.value) else repr(float(cell.value))}"'


def pairs(rows: list[tuple[str, str]]) -> str:
    """A table of names and values."""
    body = "\n".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="pairs"><tbody>\n{body}\n</tbody></table>'


def embedded_json(value, element_id: str) -> str:
    """Data for a script of the page. No text in it can close the element: ``<``, ``>`` and ``&`` are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{element_id}">{text}</script>'


def css_color(color: str) -> str:
    """The CSS variable for a color of the figures, which follows the theme."""
    return next((f"var(--{name})" for name, light, _ in THEME if light.lower() == color.lower()), color)


def folded(summary: str, content: str, element_id: str = "", is_open: bool = False) -> str:
    named = f' id="{element_id}"' if element_id else ""
    return f"<details{named}{' open' if is_open else ''}><summary>{escape(summary)}</summary>\n{content}\n</details>"


def commands(lines: list[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def downloads(files: dict[str, bytes]) -> str:
    """Links to files embedded in the page, compressed if larger than ``SMALL_FILE``; those larger than ``LARGEST_FILE`` are only named."""
    large = [f"{escape(name)} ({len(content) / 1e6:.0f} MB)" for name, content in files.items() if len(content) > LARGEST_FILE]
    files = {name: content for name, content in files.items() if len(content) <= LARGEST_FILE}
    files = {name if len(content) <= SMALL_FILE else f"{name}.gz": content if len(content) <= SMALL_FILE else gzip.compress(content, mtime=0)
             for name, content in files.items()}
    apart = f" Too large for this page, next to it: {', '.join(large)}." if large else ""
    links = [f'<a download="{escape(name)}" href="data:application/octet-stream;base64,'
             f'{base64.b64encode(content).decode()}">{escape(name)}</a>' for name, content in files.items()]
    return f'<p class="downloads">Files inside this page, click to save: {", ".join(links)}.{apart}</p>'
