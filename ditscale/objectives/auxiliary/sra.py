"""SRA (arXiv 2505.02831): an early block's tokens follow a later block of a teacher, an average of the model that sees less noise."""

from typing import Literal

from pydantic import Field

from ditscale.models.macs import Backbone
from ditscale.models.sizes import Size, parse_model_name
from ditscale.objectives.auxiliary.kind import Auxiliary, check_block, early_block
from ditscale.section import Count

WEIGHTS = {"cosine": 0.5, "smooth_l1": 2.0}                                    # [C]


class Sra(Auxiliary):
    """A distance between a head on the student's tokens after ``block`` and the teacher's after ``teacher_block``, mean over tokens.

    The teacher sees the same image, noise and dropped labels at a level lower by a draw from U(0, t_max), never below the cleanest. t_max is a share of
    the formulation's range of levels: flow's t, ddpm's timestep / 1000, and for edm sigma / (1 + sigma), the t with the same ratio of noise to signal
    (``Formulation.lowered``). The teacher has no head.
    """

    name: Literal["sra"]
    weight: float | None = Field(None, gt=0)                                   # default: 0.5 for cosine, 2 for smooth_l1 [C]
    distance: Literal["cosine", "smooth_l1"] = "cosine"                        # [C: default since 2026-07; there over tokens, here over channels]
    beta: float = Field(0.05, gt=0)                                            # of smooth_l1 [C]
    block: Count | None = Field(None, gt=0)                                    # default: a third of the depth, at most 8: B 4, L and XL 8 [R]
    teacher_block: Count | None = Field(None, gt=0)                            # default: as many blocks before the last one's end: B 8, XL 20 [R]
    t_max: float = Field(0.2, ge=0, le=1)                                      # [C]
    teacher_momentum: float = Field(0.9999, ge=0, le=1)                        # [C]; short runs need less

    color = "#c2477f"
    dark_color = "#ee86b4"
    row = {"method": "sra", "added to the loss": "distance of a head on the tokens to the tokens of a teacher that sees less noise",
           "read from": "block 4 (teacher 8) of B, 8 (20) of XL",
           "published": "SiT-XL/2, 800 epochs, guidance interval: FID 1.58 [R, README]; SiT-B/2, 400K steps: a teacher at the same level 31.07, "
                        "at most 0.2 cleaner 29.10, without a head 34.23 [R]",
           "caveat": "the teacher is not the average that is scored; the authors' decay of the weight late in training is not built"}
    has_teacher = True

    @property
    def factor(self) -> float:
        return self.weight or WEIGHTS[self.distance]

    def check(self, config):
        check_block("objective.with sra: teacher_block", self.teacher_block, parse_model_name(config.model.name).dims.depth)

    def tap(self, dims: Size) -> int:
        return self.block or early_block(dims.depth, 3)

    def teacher_tap(self, depth: int) -> int:
        """The teacher's block."""
        return self.teacher_block or depth - early_block(depth, 3)

    def head(self, backbone: Backbone) -> tuple[int, ...]:
        return backbone.width, 2 * backbone.width, backbone.width              # [C]

    def forward_only_macs(self, backbone: Backbone):
        blocks = backbone.blocks(self.teacher_tap(backbone.model.dims.depth))
        return {"sra_teacher": sum(backbone.embed_macs().values()) + sum(blocks.macs(backbone.tokens).values())}

    def streams(self):
        from ditscale.randomness import Uniform

        return {"sra level": Uniform()}

    def loss(self, seen):
        import torch
        import torch.nn.functional as F

        from ditscale.diffusion.formulation import wide

        t = seen.formulation.lowered(seen.noised.t, self.t_max * seen.draws["sra level"][:, 0])
        with torch.no_grad():
            inputs = seen.formulation.model_inputs(seen.formulation.add_noise(seen.clean, seen.noised.noise, t), t)
            target = wide(seen.teacher.tokens_after(self.teacher_tap(len(seen.teacher.blocks)), *inputs, seen.noised.labels))
        if self.distance == "cosine":
            return 1 - F.cosine_similarity(seen.tokens, target, dim=-1).mean()
        return F.smooth_l1_loss(seen.tokens, target, beta=self.beta)
