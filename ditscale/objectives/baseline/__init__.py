"""The baseline that other variants are compared with: its compute. Its only option is ``with``, for auxiliary losses."""

from typing import Literal

from ditscale.models.macs import Backbone, ComputeCard, plain_card
from ditscale.models.sizes import Size
from ditscale.objectives.auxiliary import WithAuxiliary


class BaselineConfig(WithAuxiliary):
    """Plain DiT training: one forward over all tokens."""

    name: Literal["baseline"]

    color = "#1c1f24"
    dark_color = "#e9ebee"
    plain_dit = True
    column = {"": "baseline", "encoder sees": "all tokens", "decoder": "none", "loss terms": "`generative`", "sampling": "DiT"}

    def objective(self, config):
        from ditscale.objectives.baseline.objective import Baseline

        return Baseline, {}

    def model(self, dims: Size):
        from ditscale.models.dit import DiT

        return DiT, {}

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        return plain_card(backbone)
