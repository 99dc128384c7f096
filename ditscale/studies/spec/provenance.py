"""The source of each value of a run's config: every way to set a key carries its ``Source`` through the merge.

``leaves`` returns a copy of nested values with each value replaced by its source, and the merge (``set_key``) treats both alike. So the
reported source of a value is always what the merge did.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Source:
    """One place that sets a value: in the study's file, or a ``key=value``.

    Args:
        place: keys and indices from the top of the file, for example ``("parameters", "seed", "values", 1)``.
        override: the ``key=value``, if it is not in the file.
        derived_from: the key set there that determines this one: ``train.flops`` for ``train.images``.
    """

    place: tuple = ()
    override: str = ""
    derived_from: str = ""

    def within(self, key) -> "Source":
        """The location of a key inside this value."""
        return replace(self, place=(*self.place, key)) if self.place else self

    def deciding(self, key: str) -> "Source":
        """This source, for a value determined by the key set there."""
        return replace(self, derived_from=key)


class Settings(dict):
    """Dotted keys with their values and sources."""

    def __init__(self, values: dict, sources: dict[str, Source]):
        super().__init__(values)
        self.sources = sources

    def without(self, keys) -> "Settings":
        kept = {key: value for key, value in self.items() if key not in keys}
        return Settings(kept, {key: self.sources[key] for key in kept})

    def above(self, other: "Settings") -> "Settings":
        """Both merged; values of this one win."""
        return Settings({**other, **self}, {**other.sources, **self.sources})

    def leaves(self) -> dict:
        """The sources of the values, with the same nesting."""
        return {key: leaves(value, self.sources[key]) for key, value in self.items()}


def settings_at(values: dict, source: Source) -> Settings:
    """Settings that all come from one mapping of the file, or from one override."""
    return Settings(values, {key: source.within(key) for key in values})


def leaves(value, source: Source):
    """The nested mappings with each value replaced by its source; a list is one value."""
    return {key: leaves(inner, source.within(key)) for key, inner in value.items()} if isinstance(value, dict) else source


def source_at(sources: dict, dotted: str) -> Source | None:
    """The source of a config key; None if nothing sets it and it has its default."""
    for part in dotted.split("."):
        if not isinstance(sources, dict) or part not in sources:
            return None
        sources = sources[part]
    return sources if isinstance(sources, Source) else None
