"""Training variants. An objective is a pure function of (model, formulation, batch, randomness) that returns named loss terms.

``VARIANTS`` is the list, in the order used for display. An entry is a variant's config section; everything
else of the variant is its attributes and methods (``variant.Variant``). To add one: a file or folder here, its entry in the list.
No torch here: an objective and its model are imported when they are made (``from_config``).
"""

from typing import get_args

from ditscale.objectives.auxiliary import AUXILIARY
from ditscale.objectives.auxiliary.kind import Auxiliary
from ditscale.objectives.baseline import BaselineConfig
from ditscale.objectives.discriminative import DiscriminativeConfig
from ditscale.objectives.masked import MaskedConfig
from ditscale.objectives.mdt import MdtConfig
from ditscale.objectives.sprint import SprintConfig
from ditscale.objectives.tread import TreadConfig
from ditscale.objectives.variant import LABEL_JOIN, Variant

VARIANTS: dict[str, type[Variant]] = {get_args(kind.model_fields["name"].annotation)[0]: kind for kind in (
    BaselineConfig,
    MaskedConfig,
    MdtConfig,
    DiscriminativeConfig,
    TreadConfig,
    SprintConfig,
)}
BASELINE = "baseline"                                                          # the others are compared with it


def colored_as(label: str) -> type[Variant] | type[Auxiliary] | None:
    """The kind whose color a ``Variant.label`` has: its last auxiliary loss, else its variant; None: not known."""
    name, *losses = label.split(LABEL_JOIN)
    return AUXILIARY.get(losses[-1]) if losses else VARIANTS.get(name)
