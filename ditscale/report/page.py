"""One HTML page with nothing outside it: figures and data inside, no script; light and dark, phone and print.

Every text that comes from a table, a config or a path goes through ``escape``.
"""

import base64
import html
import re

from ditscale.figures import style


# Each colour of the figures, as the CSS variable it becomes: (variable, on light paper, on dark paper).
THEME = [
    ("ink", style.INK, "#e9ebee"),
    ("muted", style.MUTED, "#a3abb6"),
    ("line", style.GRID, "#343a44"),
    ("paper", style.PAPER, "#15181d"),
    ("band", style.BAND, "#7d8794"),
    ("patch2", style.PATCH_COLOURS[2], "#6ea8ea"),
    ("patch4", style.PATCH_COLOURS[4], "#e5735a"),
    ("patch8", style.PATCH_COLOURS[8], "#f3c44f"),
    ("masked", style.VARIANT_COLOURS["masked"], "#62aeea"),
    ("mdt", style.VARIANT_COLOURS["mdt"], "#f0bd55"),
    ("discriminative", style.VARIANT_COLOURS["discriminative"], "#e0608f"),
]

CSS = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:17px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:46rem;margin:0 auto;padding:2.5rem 1.1rem 4rem}
.eyebrow{margin:0;color:var(--muted);font-size:.9rem}
h1{font-size:1.9rem;line-height:1.2;margin:.15rem 0 1.4rem;
letter-spacing:-.01em;text-wrap:balance;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:3rem 0 .8rem;padding-top:.9rem;border-top:1px solid var(--line)}
p{margin:.7rem 0}
.findings{margin:0;padding-left:1.15rem}
.findings li{margin:.5rem 0;padding-left:.2rem}
.findings li::marker{color:var(--muted)}
figure{margin:1.2rem 0}
figure svg{display:block;width:100%;max-width:40rem;height:auto;margin:0 auto}
figcaption{margin-top:.8rem;font-size:.88rem;line-height:1.5;color:var(--muted)}
.note{padding:.7rem .9rem;border:1px solid var(--line);border-radius:.4rem;color:var(--muted);font-size:.92rem}
.warning{padding:.7rem .9rem;border:2px solid var(--ink);border-radius:.4rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.9rem 0}
table{border-collapse:collapse;width:100%;font-size:.86rem;line-height:1.35;font-variant-numeric:tabular-nums}
th,td{padding:.38rem .55rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;border-bottom-color:var(--muted);vertical-align:bottom}
.scroll td{white-space:nowrap}
.scroll td:first-child{white-space:normal;min-width:6.5rem}
.scroll td:first-child,.scroll th:first-child{position:sticky;left:0;background:var(--paper)}
.number{text-align:right}
th:first-child,td:first-child{padding-left:0}
.pairs td:first-child{color:var(--muted);width:34%}
.pairs td{overflow-wrap:anywhere}
pre{overflow-x:auto;padding:.8rem .9rem;border:1px solid var(--line);border-radius:.4rem;
font-size:.84rem;line-height:1.6}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
sup{line-height:0;font-size:.75em}
a{color:inherit;text-underline-offset:.2em}
summary{cursor:pointer;margin:.9rem 0}
footer{margin-top:3rem;padding-top:.9rem;border-top:1px solid var(--line);font-size:.85rem;color:var(--muted)}
@media (max-width:30rem){
main{padding:1.6rem .9rem 3rem}
h1{font-size:1.6rem}
figure svg{width:calc(100% + 1rem);margin-left:-.5rem}
}
@media print{
body{font-size:10.5pt}
main{max-width:none;padding:0}
h2{margin-top:1.6rem;break-after:avoid}
figure,tr,li,pre{break-inside:avoid}
figure svg{max-width:13.5cm}
.scroll{overflow:visible}
.scroll table{font-size:7.5pt}
.downloads{display:none}
}
"""


def escape(value) -> str:
    return html.escape(str(value), quote=True)


def prose(text: str) -> str:
    """Escaped text whose ``C^−α`` is set as a power."""
    return re.sub(r"\^([−-]?\w+)", r"<sup>\1</sup>", escape(text))


def render(title: str, eyebrow: str, body: str, footer: str) -> str:
    """The whole page. ``body`` is HTML already; the other texts are escaped here."""
    light = "".join(f"--{name}:{colour};" for name, colour, _ in THEME)
    dark = "".join(f"--{name}:{colour};" for name, _, colour in THEME)
    variables = (f":root{{color-scheme:light dark;{light}}}\n"
                 f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{variables}\n{CSS.strip()}\n</style>\n</head>\n<body>\n<main>\n"
        f'<p class="eyebrow">{escape(eyebrow)}</p>\n<h1>{escape(title)}</h1>\n{body}\n'
        f"<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def findings(sentences: list[str]) -> str:
    return '<ul class="findings">\n' + "\n".join(f"<li>{prose(s)}</li>" for s in sentences) + "\n</ul>"


def paragraph(text: str) -> str:
    return f"<p>{prose(text)}</p>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """What a run itself warns of."""
    return f'<p class="warning"><strong>Warning</strong> of {escape(text)}</p>'


def figure(drawing: style.Drawing, svg: str) -> str:
    """The drawing inline, with its caption; ``svg`` is the text of the file that ``style.save`` wrote."""
    label = escape(drawing.caption.split(". ")[0] + ".")
    return (f"<figure>\n{inline_svg(svg, drawing.name, label)}\n"
            f"<figcaption>{prose(drawing.caption)}</figcaption>\n</figure>")


def inline_svg(svg: str, name: str, label: str) -> str:
    """An SVG file as an element: no prologue, ids unique on the page, colours that follow the theme, size by CSS."""
    svg = svg[svg.index("<svg"):].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for variable, colour, _ in THEME:
        svg = re.sub(rf"{colour}\b", f"var(--{variable})", svg, flags=re.IGNORECASE)
    view_box = re.search(r'viewBox="([^"]+)"', svg)[1]
    return re.sub(r"<svg[^>]*>", f'<svg viewBox="{view_box}" role="img" aria-label="{label}">', svg, count=1)


def table(headers: list[str], rows: list[list[str]], numbers: set[int] = frozenset()) -> str:
    """A table that scrolls sideways where the window is narrow; ``numbers`` are the columns set flush right."""
    def line(cells, tag):
        return "<tr>" + "".join(f'<{tag}{" class=number" if i in numbers else ""}>{escape(cell)}</{tag}>'
                                for i, cell in enumerate(cells)) + "</tr>"

    head, body = line(headers, "th"), "\n".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def pairs(rows: list[tuple[str, str]]) -> str:
    """Names with their values."""
    body = "\n".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="pairs"><tbody>\n{body}\n</tbody></table>'


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def commands(lines: list[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def downloads(files: dict[str, bytes]) -> str:
    """Links to files carried by the page itself."""
    links = [f'<a download="{escape(name)}" href="data:application/octet-stream;base64,'
             f'{base64.b64encode(content).decode()}">{escape(name)}</a>' for name, content in files.items()]
    return f'<p class="downloads">Inside this page, to save: {", ".join(links)}.</p>'
