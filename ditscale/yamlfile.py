"""YAML with expected types: ``1e18`` is a number, ``24:00:00`` stays text, ``on`` is a word, a key given twice is an error.

PyYAML follows YAML 1.1, where these are a string, 86400, True and the last one wins. Anchors are allowed, within bounds: whoever
reads the values walks and copies them whole.
"""

import re
from pathlib import Path

import yaml

from ditscale.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's idea of booleans and numbers."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not supported; write the keys out instead "
                                                        "(a whole value may be an anchor: key: *name)", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, (str, int, float, bool)) else id(key))
        return super().construct_mapping(node, deep)


_REPLACED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
               r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


DEPTH, VALUES = 64, 1_000_000                                                  # limits, with all anchors expanded


def parse_yaml(text: str, source: str):
    """Parses YAML text.

    Raises:
        UserError: not YAML, with the source, the line and what is wrong there; or an anchor that holds itself, values past all
            bounds, or text that no file can be named by.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{source}{where}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{source}: not valid YAML: nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:         # PyYAML's errors for !!int x and !!bool x
        raise UserError(f"{source}: not valid YAML: a value that its tag does not allow ({error})") from None
    _check(value, source)
    return value


def _check(value, source: str) -> None:
    """Raises UserError if the values are nested without end or too many, or a text cannot be a file name."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        one, depth = waiting.pop()
        seen += 1
        if depth > DEPTH:
            raise UserError(f"{source}: nested deeper than {DEPTH} levels; does an anchor contain itself?")
        if seen > VALUES:
            raise UserError(f"{source}: has more than {VALUES:,} values with its anchors expanded")
        if isinstance(one, str) and any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in one):  # an unpaired surrogate
            raise UserError(f"{source}: {one[:40]!r} has a character that no file name may contain")
        if isinstance(one, dict):
            waiting += [(inner, depth + 1) for pair in one.items() for inner in pair]
        elif isinstance(one, (list, tuple, set)):
            waiting += [(inner, depth + 1) for inner in one]


def read_yaml(path) -> object:
    """Reads a YAML file. Raises UserError if it is missing, unreadable or not YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse_yaml(text, str(path))


def line_numbers(path) -> dict[tuple, int]:
    """The first line (from 1) of each value of a YAML file that ``read_yaml`` accepts, by its path of keys and indices; the line of an
    alias is that of its anchor."""
    lines: dict[tuple, int] = {}
    waiting: list[tuple[tuple, yaml.Node | None]] = [((), yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=_Loader))]
    while waiting:
        place, node = waiting.pop()
        if node is None:                                                       # an empty file
            continue
        lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            waiting += [((*place, key.value), inner) for key, inner in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [((*place, number), inner) for number, inner in enumerate(node.value)]
    return lines
