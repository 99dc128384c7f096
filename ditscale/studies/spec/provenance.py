"""The source of each value of a run's config: every way to set a key carries its ``Source`` through the merge.

``leaves`` gives a copy of nested values with the source of each in its place, and the merge (``set_key``) treats both alike. So what is
told of a value is what the merge did.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Source:
    """One place where a value is said: in the study's file, or a ``key=value``.

    Args:
        place: keys and positions from the top of the file, as ``("parameters", "seed", "values", 1)``.
        override: the ``key=value``, where it is none of the file.
        derived_from: the key that was said there, and decides this one: ``train.flops`` of ``train.images``.
    """

    place: tuple = ()
    override: str = ""
    derived_from: str = ""

    def within(self, key) -> "Source":
        """The place of a key inside this value."""
        return replace(self, place=(*self.place, key)) if self.place else self

    def deciding(self, key: str) -> "Source":
        """This source, of a value that the key said there decides."""
        return replace(self, derived_from=key)


class Settings(dict):
    """Dotted keys with their values, and where each was said."""

    def __init__(self, values: dict, sources: dict[str, Source]):
        super().__init__(values)
        self.sources = sources

    def without(self, keys) -> "Settings":
        kept = {key: value for key, value in self.items() if key not in keys}
        return Settings(kept, {key: self.sources[key] for key in kept})

    def above(self, other: "Settings") -> "Settings":
        """Both, with the values of this one where both say a key."""
        return Settings({**other, **self}, {**other.sources, **self.sources})

    def leaves(self) -> dict:
        """The sources of the values, in their place."""
        return {key: leaves(value, self.sources[key]) for key, value in self.items()}


def said_at(values: dict, source: Source) -> Settings:
    """Settings that all stand in one mapping of the file, or come from one override."""
    return Settings(values, {key: source.within(key) for key in values})


def leaves(value, source: Source):
    """The source of each value in nested mappings, in its place; a list is one value."""
    return {key: leaves(inner, source.within(key)) for key, inner in value.items()} if isinstance(value, dict) else source


def source_at(said: dict, dotted: str) -> Source | None:
    """The source of a key of the config; None where nothing says it: it has its default."""
    for part in dotted.split("."):
        if not isinstance(said, dict) or part not in said:
            return None
        said = said[part]
    return said if isinstance(said, Source) else None
