"""Sections of the config: pydantic models with one-line errors that give the key, the value and what would work.

A part with several kinds (``formulation``, ``objective``) is a union discriminated by its ``name``; ``UNIONS`` lists them.
"""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ditscale.errors import UserError, did_you_mean

# An integer; ``1e6`` is accepted. At most 2^53, so that float64 represents it: costs are products of counts, as floats.
Count = Annotated[int, BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
                  Field(le=2**53)]

# Numbers per token in a layer, and blocks in a stack: at most as many as a model's name can give. More would only run out of memory.
MOST_WIDE, MOST_DEEP = 99_999, 9_999
Width = Annotated[Count, Field(gt=0, le=MOST_WIDE)]
Depth = Annotated[Count, Field(ge=0, le=MOST_DEEP)]

Counts = Annotated[tuple[Count, ...], Field(strict=False)]

# Numbers; a single one may be written without brackets.
Numbers = Annotated[tuple[float, ...], Field(strict=False),
                    BeforeValidator(lambda value: [value] if isinstance(value, (int, float)) else value)]


class Section(BaseModel):
    """A part of the config; unknown keys are errors, and values cannot be changed later.

    Attributes:
        older_keys: older spellings of its keys, which stay valid, mapped to the current one.
        older_values: for each key, older spellings of its default, mapped to the current one. (Run ids leave defaults out.)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True, protected_namespaces=(), defer_build=True)
    older_keys: ClassVar[dict[str, str]] = {}
    older_values: ClassVar[dict[str, dict[str, str]]] = {}

    @classmethod
    def current_key(cls, key: str) -> str:
        return cls.older_keys.get(key, key)

    @classmethod
    def current_value(cls, key: str, value):
        """A value of a current key in its current spelling; for a list, each item."""
        older = cls.older_values.get(key, {})
        if isinstance(value, list):
            return [cls.current_value(key, one) for one in value]
        return older.get(value, value) if isinstance(value, str) else value

    @classmethod
    def current_spelling(cls, values):
        """The values with keys and values in the current spelling. Raises UserError if a key is given in both."""
        if not isinstance(values, dict) or not (cls.older_keys or cls.older_values):
            return values
        for older, key in cls.older_keys.items():
            if older in values and key in values:
                raise UserError(f"'{key}' is given twice: '{older}' is its older spelling")
        return {(now := cls.current_key(key)): cls.current_value(now, value) for key, value in values.items()}

    @model_validator(mode="before")
    @classmethod
    def _in_current_spelling(cls, values):
        return cls.current_spelling(values)


BRANCHES = ("bool", "int", "float", "str", "constrained-int", "constrained-float")  # of a value of several kinds, in pydantic's locations
SHOULD_BE = "Input should be"                                                  # how most of pydantic's messages begin

UNIONS: dict[str, Mapping[str, type[Section]]] = {}                            # key in the config -> name -> its section


def union(key: str, kinds: Mapping[str, type[Section]]) -> Any:
    """The annotation of a part with several kinds, each with its own options; ``name`` selects one."""
    UNIONS[key] = kinds
    return Annotated[reduce(or_, kinds.values()), Field(discriminator="name")]


Model = TypeVar("Model", bound=BaseModel)


def validate(kind: type[Model], values, source: str) -> Model:
    """Makes a pydantic model from plain values, with a one-line error."""
    if values is None:
        raise UserError(f"{source} is empty; it should hold keys and values")
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected a mapping of keys to values, got {type(values).__name__}")
    try:
        return kind.model_validate(values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except ValidationError as error:
        items = sorted(_by_option(error.errors()), key=lambda item: item["type"] != "extra_forbidden")  # a misspelled key explains the other errors
        lines = [_explain(kind, item) for item in items]
        more = f" (and {len(lines) - 1} more: {'; '.join(lines[1:3])})" if len(lines) > 1 else ""
        raise UserError(f"{source}: {lines[0]}{more}") from None


def _by_option(items: list[ErrorDetails]) -> list[ErrorDetails]:
    """One error for an option of several kinds, of which pydantic has one for each kind: ``should be a valid boolean or 'mirror'``."""
    found: dict[tuple, ErrorDetails] = {}
    for item in items:
        place = _place(item)
        if place in found:
            found[place]["msg"] += f" or {item['msg'].removeprefix(SHOULD_BE).strip()}"
        else:
            found[place] = item
    return list(found.values())


def _place(item: ErrorDetails) -> tuple:
    """The location of an error without the kinds of values that pydantic tried there."""
    return tuple(part for part in item["loc"] if "[" not in str(part) and part not in BRANCHES)


def _explain(kind: type[BaseModel], item: ErrorDetails) -> str:
    """One pydantic error as a sentence: the key, the value, what would work."""
    if isinstance(item.get("ctx", {}).get("error"), UserError):
        return str(item["ctx"]["error"])
    loc, section, chosen = _without_tag(_place(item))
    key, kinds = ".".join(str(part) for part in loc), UNIONS.get(section, {})
    if item["type"] == "extra_forbidden":
        known = list(kinds[chosen].model_fields) if chosen else _keys_at(kind, loc[:-1])
        owners = [name for name, options in kinds.items() if chosen and loc[-1] in options.model_fields]
        foreign = f" for {section} {chosen}; it is an option of {', '.join(owners)}." if owners else ""
        return f"unknown key '{key}'{foreign or did_you_mean(loc[-1], known) or '.'} Keys here: {', '.join(known)}"
    if item["type"] == "missing" or item["type"] == "union_tag_not_found":
        return f"'{key}{'.name' if item['type'] == 'union_tag_not_found' else ''}' is missing"
    if item["type"] == "union_tag_invalid":
        name, kinds = item["ctx"]["tag"], UNIONS[loc[-1]]
        return f"'{key}.name' is {name!r}{did_you_mean(name, kinds) or '.'} {loc[-1].capitalize()}s: {', '.join(kinds)}"
    if item["type"] in ("model_attributes_type", "model_type") and key.rpartition(".")[2] in UNIONS:
        kinds = UNIONS[key.rpartition(".")[2]]
        chosen = item["input"] if isinstance(item["input"], str) and item["input"] in kinds else next(iter(kinds))
        return f"'{key}' is {item['input']!r}: it is a section of its own; write {{name: {chosen}}}, or {key}.name={chosen} on the command line"
    return f"'{key}' is {item['input']!r}: {_message(item)}"


def in_words(error: ValidationError) -> str:
    """The first error in a file that we wrote: the key, the value, what is expected."""
    item = error.errors()[0]
    key = ".".join(str(part) for part in item["loc"])
    return f"'{key}' is missing" if item["type"] == "missing" else f"'{key}' is {str(item['input'])[:80]!r}: {_message(item)}"


def _message(item: ErrorDetails) -> str:
    message = item["msg"].replace(SHOULD_BE, "should be").replace("a valid tuple", "a list")
    return message[0].lower() + message[1:]


def _without_tag(loc: tuple) -> tuple[tuple, str | None, str | None]:
    """A location in the config without the kind's name that pydantic adds to it, the part with several kinds, and that name."""
    for index, (section, chosen) in enumerate(zip(loc, loc[1:-1])):
        if chosen in UNIONS.get(section, {}):
            return (*loc[:index + 1], *loc[index + 2:]), section, chosen
    return loc, None, None


def _keys_at(kind: type[BaseModel], loc: tuple) -> list[str]:
    """The keys of the section at a path of keys."""
    for part in loc:
        field = kind.model_fields.get(part)
        inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_section(t)] if field else []
        if not inner:
            return []
        kind = inner[0]
    return list(kind.model_fields)


def _is_section(annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
