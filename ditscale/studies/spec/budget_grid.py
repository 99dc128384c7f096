"""IsoFLOP designs: for each budget of training compute, models around the expected optimal size.

A model's size is its compute in parameters of a plain transformer, N = training FLOPs per image / (6 T), with T tokens of the input
at patch size 2. This is the N of "C = 6 N D" at any patch size; adaLN's vectors, computed once per image, count by their
compute. The expected optimum is a power law N* = a C^b; the default is from Liang et al. (arXiv 2410.08184), fitted to isoFLOP
curves of in-context DiTs with rectified flow, from 1e17 to 6e18 FLOPs. Abra's (arXiv 2608.17286) is another: see published_optima.py.

Models are generated with one patch size and proportions between S, B, L and XL (width 32 to 64 times depth), or
chosen from a list. Do not mix patch sizes carelessly: in DiT's Table 4, S/2 and B/4 have FID 68.4 at 6.1 and 5.6
GMACs, but L/8 has 118.9 at 5.0.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, model_validator

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.models.macs import plain_card
from ditscale.models.sizes import HEAD_WIDTH, ModelName, parse_model_name
from ditscale.objectives import BASELINE
from ditscale.objectives.variant import backbone_of
from ditscale.section import Count, Section
from ditscale.studies.spec.budgets import Positive

NARROWEST, WIDEST = 2.0, 4.0                                                   # times to each side: narrower shows no curvature, wider is biased
RECOMMENDED = "2 to 4 is recommended"
SLACK = 1.25                                                                   # named sizes need not match the grid exactly


class Center(Section):
    """The expected optimum, N* = coefficient x C^exponent."""

    coefficient: float = Field(default=0.0009, gt=0)
    exponent: float = Field(default=0.5681, gt=0, lt=1)

    def at(self, flops: float) -> float:
        return self.coefficient * flops**self.exponent


class IsoFlop(Section):
    """``sizes`` models per budget, in equal steps of ln N from N*/span to N* x span."""

    older_keys = {"centre": "center"}

    budgets: list[Positive] = Field(min_length=1)                              # training FLOPs
    sizes: Count = Field(default=5, ge=3)
    span: float = Field(default=4.0, gt=1)
    center: Center = Center()
    patch_size: Literal[2, 4, 8] = 2
    models: list[str] | None = None                                            # choose the nearest of these instead

    @model_validator(mode="after")
    def _check_models(self):
        if self.models is not None and "patch_size" in self.model_fields_set:
            raise UserError("isoflop.models name their patch sizes; leave isoflop.patch_size out")
        for name in self.models or []:
            parse_model_name(name)
        for key in ("models", "budgets"):
            given = getattr(self, key) or []
            if len(set(given)) < len(given):
                raise UserError(f"isoflop.{key} has an entry twice: {', '.join(map(str, given))}")
        return self


@dataclass(frozen=True)
class IsoFlopCurve:
    """One budget's models, small to large, with their sizes, and the expected optimal size."""

    flops: float
    optimum: float
    models: dict[str, float]

    @property
    def warning(self) -> str:
        """What is wrong with the grid's position; "" if nothing."""
        below, above = self.optimum / min(self.models.values()), max(self.models.values()) / self.optimum
        side = "larger" if above < below else "smaller"
        if min(below, above) < 1:
            return f"the expected optimum lies outside: no model is {side}"
        if min(below, above) < NARROWEST / SLACK:
            return f"the expected optimum lies at the edge: the {side} side reaches {min(below, above):.2g} times; {RECOMMENDED}"
        if max(below, above) > WIDEST * SLACK:
            return f"the grid reaches {max(below, above):.2g} times from the optimum, where a parabola is biased; {RECOMMENDED}"
        return ""


def isoflop_curves(design: IsoFlop, config: dict, source: str) -> list[IsoFlopCurve]:
    """The models of each budget. Their sizes are computed as for plain DiTs, so that all variants of a study get the same models.

    Raises:
        UserError: the config is wrong, a patch size does not divide the input, or there are too few models.
    """
    names = [parse_model_name(name) for name in design.models] if design.models else _shapes(design.patch_size)
    if len(names) < design.sizes:
        raise UserError(f"{source}: isoflop.sizes is {design.sizes}, but isoflop.models has {len(names)} entries")
    sizes = _sizes(names, config, source)
    found = []
    for flops in design.budgets:
        optimum, left, chosen = design.center.at(flops), dict(sizes), []
        for step in range(design.sizes):
            wanted = optimum * design.span ** (2 * step / (design.sizes - 1) - 1)
            chosen.append(min(left, key=lambda name: abs(math.log(left[name] / wanted)) + _oddness(name)))
            del left[chosen[-1]]
        found.append(IsoFlopCurve(flops, optimum, {str(name): sizes[name] for name in sorted(chosen, key=sizes.get)}))
    return found


def _shapes(patch_size: int) -> list[ModelName]:
    """All sizes with proportions between S (width 32 times depth) and B (64 times), up to 10 billion parameters."""
    return [ModelName(f"{depth}x{width}", patch_size) for width in range(HEAD_WIDTH, 4097, HEAD_WIDTH)
            for depth in range(math.ceil(width / 64), width // 32 + 1)]


def _oddness(name: ModelName) -> float:
    """The penalty of a size for proportions far from L's and XL's; 0 for named sizes."""
    return 0.0 if "x" not in name.size else 0.1 * abs(math.log(name.dims.hidden_size / name.dims.depth / 42))


def _sizes(names: list[ModelName], config: dict, source: str) -> dict[ModelName, float]:
    """N of each model with the inputs of a study's base config."""
    batch = config.get("train", {}).get("global_batch", 256)
    train = {"images": batch, "global_batch": batch, "checkpoint_every_images": batch}
    values = {**config, "train": train, "objective": {"name": BASELINE}, "evaluation": None, "resources": {}}
    backbones, sizes = {}, {}
    for name in names:
        if name.patch_size not in backbones:                                   # the rest of the backbone is the same for all sizes
            model = {**config.get("model", {}), "name": str(name)}
            backbones[name.patch_size] = backbone_of(resolve({**values, "model": model}, source))
        backbone = replace(backbones[name.patch_size], model=name)
        tokens = (backbone.grid * name.patch_size / 2)**2
        sizes[name] = plain_card(backbone).train_flops_per_image / (6 * tokens)
    return sizes
