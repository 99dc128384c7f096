"""Shows a JSON card as HTML: a list of names and values, with a table for a list of similar entries."""

from ditscale.errors import count
from ditscale.report import page

MANY_ROWS = 40
MANY_VALUES = 16


def definitions(card: dict) -> str:
    """A ``<dl>``; missing values are written as such."""
    return "<dl>" + "".join(f"<dt>{page.escape(_words(name))}</dt><dd>{_value(value)}</dd>" for name, value in card.items()) + "</dl>"


def _value(value) -> str:
    if isinstance(value, dict):
        return definitions(value) if value else "none"
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return _rows(value)
    if isinstance(value, list):
        more = f" and {len(value) - MANY_VALUES} more" if len(value) > MANY_VALUES else ""
        return page.escape(", ".join(map(_text, value[:MANY_VALUES])) + more) if value else "none"
    return page.escape(_text(value))


def _rows(rows: list[dict]) -> str:
    names = list(rows[0])
    shown = page.table([_words(name) for name in names], [[_text(row.get(name)) for name in names] for row in rows[:MANY_ROWS]],
                       sortable=True)
    return shown + (page.note(f"{count(len(rows) - MANY_ROWS, 'more row is', 'more rows are')} in the file.") if len(rows) > MANY_ROWS else "")


def _text(value) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
