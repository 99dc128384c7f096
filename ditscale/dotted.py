"""Dotted keys such as ``train.lr``: nested values as flat ones and back, ``key=value``, and options' older spellings."""

from typing import Any

from ditscale.errors import UserError
from ditscale.section import UNIONS
from ditscale.yamlfile import parse_yaml


def set_key(values: dict, dotted: str, value) -> None:
    """Sets ``a.b.c`` in nested dictionaries, creating missing ones."""
    *parents, leaf = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"'{dotted}' cannot be set: '{parent}' is a value, not a section")
    values[leaf] = value


def current_setting(key: str, value) -> tuple[str, object]:
    """A dotted key and its value in their current spelling; for a whole section, its keys and values."""
    part, _, option = key.partition(".")
    for kind in UNIONS.get(part, {}).values():
        if not option:
            value = kind.current_spelling(value)
        else:
            option = kind.current_key(option)
            value = kind.current_value(option, value)
    return f"{part}.{option}" if option else key, value


def current_settings(settings: dict) -> dict:
    """Dotted keys, or whole sections, in their current spelling. Raises UserError if a key is given in both spellings."""
    current: dict = {}
    for key, value in settings.items():
        now, value = current_setting(key, value) if isinstance(key, str) else (key, value)
        if now in current:
            raise UserError(f"'{now}' is given twice, once in an older spelling")
        current[now] = value
    return current


def dotted_keys(values: dict, prefix: str = "") -> dict:
    """Nested dictionaries as one with keys ``a.b.c``, the inverse of ``set_key``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def parse_override(text: str, example: str = "train.lr=3e-4") -> tuple[str, object]:
    """Splits ``train.lr=3e-4`` into its key and its value, which is read as YAML; ``example`` is for the message where it has another form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"'{text}' is not of the form key=value, for example {example}")
    return current_setting(key.strip(), parse_yaml(value, f"'{text}'"))
