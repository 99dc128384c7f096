"""Formulations' options, without torch: samplers, their levels, and the outputs of the model.

Each ``<name>_options.py`` has a formulation's config section and these facts; ``<name>.py`` next to it has its arithmetic.
"""

import pkgutil
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import Self

from ditscale.section import Section


class Facts:
    """Facts shared by a formulation and its options."""

    learn_sigma: ClassVar[bool] = False                                        # the model also outputs a variance
    samplers: ClassVar[tuple[str, ...]] = ("heun", "euler")                    # the samplers of samplers.py that work with it
    sampling_options: ClassVar[tuple[str, ...]] = ()                           # fields of Sampling that only it reads
    passport_options: ClassVar[tuple[str, ...]] = ()                           # those of its options that affect sampling levels
    later_options: ClassVar[dict[str, object]] = {}                            # newer ones: passports leave them out at these defaults
    highest_level: ClassVar[float]                                             # the upper limit for an interval of levels
    level_unit: ClassVar[str]                                                  # the unit of levels, for error messages

    def sampling_levels(self, sampling) -> list[float]:
        """The levels that a ``Sampling`` visits, noisiest first; the last is clean.

        Raises:
            UserError: the levels do not exist.
        """
        raise NotImplementedError


class FormulationOptions(Facts, Section):
    """A formulation's config section: its options, and its ``name`` as a ``Literal``."""

    path: ClassVar[str]                                                        # ``package.module:Class`` of the arithmetic
    if TYPE_CHECKING:
        name: str

    def check_sampling(self, sampling) -> None:
        """Raises ``UserError`` for levels that do not exist."""

    def for_inputs(self, values: int) -> Self:
        """The options for a model whose input is so many numbers: those that follow from it become numbers."""
        return self

    def stated(self) -> dict:
        """The options by name as a passport of a validation loss has them."""
        later = {name for name, default in self.later_options.items() if getattr(self, name) == default}
        return self.model_dump(mode="json", exclude={"name", *later})

    def settings(self) -> dict:
        """The options by name, as arguments of the formulation."""
        return self.model_dump(exclude={"name"})

    def make(self):
        """The ``Formulation`` with these options. Imports torch."""
        return pkgutil.resolve_name(self.path)(**self.settings())
