"""``--tiny`` of every benchmark: the smallest sizes, which show whether it runs; its numbers say nothing."""

import argparse


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None = None, **tiny) -> argparse.Namespace:
    """The options, with ``tiny``'s in place of the defaults where ``--tiny`` is given. What else is given stays."""
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: whether it runs; its numbers say nothing")
    if parser.parse_args(arguments).tiny:
        parser.set_defaults(**tiny)
    return parser.parse_args(arguments)
