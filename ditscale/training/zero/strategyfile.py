"""Reads a DeepSpeed JSON: every key and its type are checked before anything starts. Needs neither torch nor DeepSpeed."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditscale.errors import UserError, did_you_mean
from ditscale.training.zero.deepspeed_keys import ALLOWED, BOOL, COUNT, IDLE, LIST, POSITIVE, REFUSED, SECTION, SHARE, TEXT, TOP, Key

STRATEGIES = Path(__file__).parent / "strategies"                              # a link to ds_configs/ in the checkout; the wheel contains copies
AUTO = "auto"
LARGEST = 2**63


@dataclass(frozen=True)
class Strategy:
    """A checked DeepSpeed JSON.

    Args:
        allowed: values passed to DeepSpeed; "auto" is left to its defaults.
        run: the file's values that the run config decides, by dotted key, for comparison.
        idle: keys that are left out as they have no effect here, with the reason.
    """

    path: Path
    allowed: dict
    run: dict
    idle: dict

    @property
    def where(self) -> str:
        return f"resources.deepspeed: {self.path}"

    @property
    def zero(self) -> dict:
        return self.allowed.get("zero_optimization", {})

    @property
    def stage(self) -> int:
        return self.zero.get("stage", 0)


def strategy_path(named: str | Path) -> Path:
    """The file of a strategy: a path, or the name of one included in ditscale, such as ``zero1``.

    Without a file ``ds_configs/zero1.json``, this path also means the included one, as version 0.1 recorded it in runs.
    """
    path = Path(named)
    own = STRATEGIES / f"{path.stem}.json"
    if path in (Path(own.stem), Path("ds_configs", own.name)) and not os.path.isfile(path) and os.path.isfile(own):
        return own
    return path


def read_strategy(path: str | Path) -> Strategy:
    """Reads and checks a strategy, given by name or file, independent of the run.

    Raises:
        UserError: it cannot be read, or a key is unknown, of another type, or refused; the message says what would work.
    """
    path = Path(path)
    values = _read(path)
    strategy = Strategy(path, {}, {}, {})
    strategy.allowed.update(_sort(values, TOP, "", strategy))
    return strategy


def _read(path: Path) -> dict:
    where = f"resources.deepspeed: {path}"
    try:
        values = json.loads(strategy_path(path).read_bytes(), object_pairs_hook=lambda pairs: _once(pairs, where))
    except FileNotFoundError:
        names = ", ".join(sorted(file.stem for file in STRATEGIES.glob("*.json")))
        raise UserError(f"{where} does not exist (looked from {Path.cwd()}); give a DeepSpeed JSON, or one of {names}") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:                              # not JSON, not UTF-8, a name with a NUL
        raise UserError(f"{where} is not readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where} is not a DeepSpeed config: expected a JSON object with zero_optimization")
    return values


def _once(pairs: list[tuple], where: str) -> dict:
    """A JSON object; a repeated key is an error, as JSON readers would silently use the second one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"{where} has the key '{next(name for name in names if names.count(name) > 1)}' twice")
    return found


def _sort(values: dict, table: dict[str, Key], prefix: str, strategy: Strategy) -> dict:
    """The allowed part of a section; other keys go to the strategy's other parts or are refused."""
    allowed: dict[str, Any] = {}
    for name, value in values.items():
        full, key = prefix + name, table.get(name)
        if key is None:
            raise UserError(f"{strategy.where} has the unknown key '{full}'{did_you_mean(name, table) or '; drop it'}")
        if key.kind == IDLE:
            strategy.idle[full] = key.why
        elif key.kind == REFUSED:
            if not _is_off(key, value):
                it = "section" if key.type == SECTION else "key"
                raise UserError(f"{strategy.where} has '{full}', but {key.why}; drop the {it}")
        elif value == AUTO and (key.kind != ALLOWED or prefix and key.type in (BOOL, COUNT, POSITIVE)):
            pass                                                               # the run config's value, or ZeRO's default
        elif value is None and None in key.off:
            pass                                                               # DeepSpeed's own default
        elif key.keys is not None:
            _check_type(value, key, full, strategy)
            inside = _sort(value, key.keys, f"{full}.", strategy)
            if key.kind == ALLOWED and inside:
                allowed[name] = inside
        else:
            _check_type(value, key, full, strategy)
            if key.kind == ALLOWED:
                allowed[name] = int(value) if key.type in (COUNT, POSITIVE) else value
            else:
                strategy.run[full] = value
    return allowed


def _is_off(key: Key, value) -> bool:
    """Whether a refused key has a value without effect."""
    if key.switch and isinstance(value, dict):
        return value.get(key.switch, False) in (False, AUTO)
    return value == AUTO or any(type(value) is type(off) and value == off for off in key.off)


def _check_type(value, key: Key, full: str, strategy: Strategy) -> None:
    if _is_of(value, key.type):
        return
    if full == "zero_optimization.stage":
        raise UserError(f"{strategy.where} asks for ZeRO stage {value!r}; stages are 0, 1, 2 and 3")
    wanted = key.type if isinstance(key.type, str) else " or ".join(map(json.dumps, key.type))
    kind = ", which is a string" if isinstance(value, str) and key.type != TEXT and isinstance(key.type, str) else ""
    raise UserError(f"{strategy.where} has {full} = {json.dumps(value)[:60]}{kind}; give {wanted}{_example(value, key)}")


def _is_of(value, kind) -> bool:
    if isinstance(kind, tuple):
        return any(type(value) is type(choice) and value == choice for choice in kind)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
    return {BOOL: isinstance(value, bool), TEXT: isinstance(value, str), SECTION: isinstance(value, dict),
            LIST: isinstance(value, list), SHARE: is_number and 0 <= value <= 1, "a number": is_number,
            COUNT: is_number and value >= 0 and value == int(value),
            POSITIVE: is_number and value > 0 and value == int(value)}[kind]


def _example(value, key: Key) -> str:
    """An example for the error message: a quoted number as a number, or the object for a device."""
    if key.type in (COUNT, POSITIVE, "a number") and isinstance(value, str):
        try:
            return f", {float(value):g} without quotes"
        except ValueError:
            return ""
    return ', for example {"device": "cpu"}' if key.keys and "device" in key.keys else ""
