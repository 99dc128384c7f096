"""A formulation's options without torch: its samplers, their levels, and the outputs of its model.

Each ``<name>_options.py`` holds a formulation's section of the config and these facts; ``<name>.py`` beside it, its arithmetic.
"""

import pkgutil
from typing import TYPE_CHECKING, ClassVar

from ditscale.section import Section


class Facts:
    """What holds for a formulation and for its options alike."""

    learn_sigma: ClassVar[bool] = False                                        # the model also outputs a variance
    samplers: ClassVar[tuple[str, ...]] = ("heun", "euler")                    # of samplers.py, those that go with it
    sampling_options: ClassVar[tuple[str, ...]] = ()                           # fields of Sampling that only it reads
    passport_options: ClassVar[tuple[str, ...]] = ()                           # of its options, those that sampling levels rest on
    highest_level: ClassVar[float]                                             # an interval of levels ends there at most
    level_unit: ClassVar[str]                                                  # what levels are, in an error

    def sampling_levels(self, sampling) -> list[float]:
        """The levels that a ``Sampling`` visits, noisiest first; the last is clean.

        Raises:
            UserError: there are no such levels.
        """
        raise NotImplementedError


class FormulationOptions(Facts, Section):
    """A formulation's section of the config: its options, and its ``name`` as a ``Literal``."""

    path: ClassVar[str]                                                        # ``package.module:Class`` of the arithmetic
    if TYPE_CHECKING:
        name: str

    def check_sampling(self, sampling) -> None:
        """Refuse levels that there are not, with a ``UserError``."""

    def settings(self) -> dict:
        """The options by name, as the formulation takes them."""
        return self.model_dump(exclude={"name"})

    def make(self):
        """The ``Formulation`` with these options. Imports torch."""
        return pkgutil.resolve_name(self.path)(**self.settings())
