"""Auxiliary losses: terms that are added to a variant's loss, on the same pass of the same backbone. ``objective: {name: baseline, with: [sra2]}``.

``AUXILIARY`` is the list. To add one: a file here, its entry in the list. No torch here.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BeforeValidator, Field, SerializeAsAny, create_model

from ditscale.errors import UserError, count, did_you_mean
from ditscale.models.macs import Backbone, ComputeCard, Parts, added
from ditscale.models.sizes import parse_model_name
from ditscale.objectives.auxiliary.contrastive import Contrastive
from ditscale.objectives.auxiliary.dispersive import Dispersive
from ditscale.objectives.auxiliary.kind import Auxiliary, check_block
from ditscale.objectives.auxiliary.repa import Repa
from ditscale.objectives.auxiliary.sra import Sra
from ditscale.objectives.auxiliary.sra2 import Sra2
from ditscale.objectives.variant import Variant
from ditscale.section import validate

if TYPE_CHECKING:
    from ditscale.config import RunConfig
    from ditscale.models.taps import Tap

AUXILIARY: dict[str, type[Auxiliary]] = {get_args(kind.model_fields["name"].annotation)[0]: kind for kind in (
    Dispersive,
    Contrastive,
    Sra,
    Sra2,
    Repa,
)}


def _read(entries: Any) -> Any:
    """The entries of ``with`` as sections: each a name, or a mapping with a name. A single one needs no brackets.

    Raises:
        UserError: an unknown name, one given twice, or an option that does not exist or does not fit.
    """
    entries = [entries] if isinstance(entries, (str, dict, Auxiliary)) else entries
    if not isinstance(entries, (list, tuple)):
        raise UserError(f"objective.with is {entries!r}; give a list of losses, each a name or {{name: ..., weight: ...}}: {', '.join(AUXILIARY)}")
    found = tuple(_section(entry) for entry in entries)
    for one in found:
        if [other.name for other in found].count(one.name) > 1:
            raise UserError(f"objective.with has {one.name} twice; give one entry")
    return found


def _section(entry: Any) -> Auxiliary:
    if isinstance(entry, Auxiliary):
        return entry
    values = {"name": entry} if isinstance(entry, str) else entry
    name = values.get("name") if isinstance(values, dict) else None
    if not isinstance(name, str):
        raise UserError(f"objective.with has {entry!r}; give a name or {{name: ..., weight: ...}}: {', '.join(AUXILIARY)}")
    if name not in AUXILIARY:
        raise UserError(f"objective.with has '{name}'{did_you_mean(name, AUXILIARY) or '.'} Auxiliary losses: {', '.join(AUXILIARY)}")
    return validate(AUXILIARY[name], values, f"objective.with {name}")


Losses = Annotated[tuple[SerializeAsAny[Auxiliary], ...], BeforeValidator(_read)]

if TYPE_CHECKING:
    _Field = Variant
else:                                                                          # a class body cannot spell the key
    _Field = create_model("_Field", __base__=Variant, **{"with": (Losses, Field(default=()))})


class WithAuxiliary(_Field):
    """A variant that takes auxiliary losses, by its option ``with``."""

    @property
    def auxiliary(self) -> tuple[Auxiliary, ...]:
        return getattr(self, "with")

    @property
    def has_teacher(self) -> bool:
        return any(one.has_teacher for one in self.auxiliary)

    @property
    def images_per_group(self) -> int:
        return math.lcm(*(one.images_per_group for one in self.auxiliary))

    @property
    def paths(self) -> dict[str, dict[int, set[str]]]:
        return {"with": {place: set(one.paths) for place, one in enumerate(self.auxiliary) if one.paths}}

    def check_run(self, config: "RunConfig") -> None:
        dims = parse_model_name(config.model.name).dims
        for one in self.auxiliary:
            tap = one.tap(dims)
            check_block(f"objective.with {one.name}: block", tap, dims.depth)
            if tap is not None and not self.has_all_tokens(tap, dims.depth):
                whole = ", ".join(str(block) for block in range(1, dims.depth + 1) if self.has_all_tokens(block, dims.depth))
                raise UserError(f"objective.with {one.name}: block {tap}: with objective {config.objective.name} it does not see all tokens in "
                                f"training; blocks that do, counted from 1: {whole}")
            one.check(config)
        self._check_group(config)

    def _check_group(self, config: "RunConfig") -> None:
        group, ranks, micro = self.images_per_group, config.resources.accelerators_per_run, config.micro_batch
        if micro % group == 0:
            return
        names = " and ".join(one.name for one in self.auxiliary if one.images_per_group > 1)
        share = config.train.global_batch // ranks
        fits = [number for number in range(group, share + 1, group) if share % number == 0]
        what = f"resources.micro_batch {micro}" if micro != share else f"{count(micro, 'image')} per rank (train.global_batch {config.train.global_batch})"
        raise UserError(f"objective.with {names} compares groups of {group} images, and {what} is no multiple of that; "
                        + (f"resources.micro_batch {' or '.join(map(str, fits[-3:]))} would work" if fits else
                           f"the images of a rank must be a multiple of {group}, or set another group"))

    def whole_card(self, backbone: Backbone, kept: int | None = None, images_seen: int = 0) -> ComputeCard:
        card = super().whole_card(backbone, kept, images_seen)
        trained: Parts = {}
        forward_only: Parts = {}
        parameters = 0
        for one in self.auxiliary:
            widths = one.head(backbone)
            parameters += sum((inputs + 1) * outputs for inputs, outputs in zip(widths, widths[1:]))
            if one.is_on(images_seen):
                macs = backbone.tokens * sum(inputs * outputs for inputs, outputs in zip(widths, widths[1:])) + one.macs(backbone)
                trained |= {one.name: macs} if macs else {}
                forward_only |= one.forward_only_macs(backbone)
        return ComputeCard(card.tokens, card.parameters + parameters, card.inference_parameters, card.macs_by_part,
                           added(card.trained_macs_by_part, trained), added(card.forward_only_macs_by_part, forward_only))

    def changes_at(self) -> list[int]:
        return sorted({at for one in self.auxiliary if (at := one.changes_at()) is not None})

    def taps(self, backbone: Backbone) -> "dict[str, Tap]":
        from ditscale.models.taps import Tap

        dims = backbone.model.dims
        return {one.name: Tap(block, one.head(backbone)) for one in self.auxiliary if (block := one.tap(dims)) is not None}
