"""SD-DiT (arXiv 2403.17004): a self-supervised loss aligns two noise levels of one image, and only the decoder denoises.

``DiscriminativeConfig`` says which parts are confirmed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ditscale.diffusion.formulation import Formulation
from ditscale.models.masking import keep_lowest
from ditscale.objectives.discriminative import DiscriminativeConfig
from ditscale.objectives.discriminative.assignment import RunningMean, entropy, sinkhorn
from ditscale.objectives.objective import CleanBatch, Noised, Objective, Terms
from ditscale.objectives.variant import kept_tokens
from ditscale.randomness import Normal, Uniform, whole

SETTLED = 0.1                                                                  # share of training before collapse is judged
UNIFORM, ONE_PROTOTYPE = 0.99, 0.05                                            # entropies, as fractions of the maximum
USAGE_MOMENTUM = 0.9                                                           # of the logged mean target


class Discriminative(Objective):
    """``L = generative + cls_weight * CE(teacher, student at [CLS]) + patch_weight * CE(... at visible tokens)``.

    Logits are cosines; teacher ``softmax((z - center) / teacher_temperature)``, or Sinkhorn-Knopp; student
    ``softmax(z / student_temperature)``. The generative loss is over all tokens.
    """

    def __init__(self, *args, options: DiscriminativeConfig, tokens: int, prototypes: int, **settings):
        super().__init__(*args, **settings)
        self.options, self.tokens, self.prototypes = options, tokens, prototypes
        self.keep = kept_tokens(tokens, options.mask_ratio)
        self.has_teacher = options.has_teacher
        self.weights = {"cls": options.cls_weight, "patch": options.patch_weight}
        if options.mask_ratio:
            self.streams["token mask"] = Uniform(tokens)
        if options.discriminates and options.teacher_noise == "uniform_below":
            self.streams["teacher noise level"] = Uniform()
        if options.discriminates and not options.shared_noise:
            self.streams["teacher noise"] = Normal(self.image_shape)
        terms = [term for term, weight in self.weights.items() if weight]
        self.means = {f"usage_{term}": RunningMean(USAGE_MOMENTUM) for term in terms}
        self.buffers = {name: torch.full((prototypes,), 1 / prototypes) for name in self.means}
        if options.assignment == "centering":
            self.means |= {f"center_{term}": RunningMean(options.center_momentum) for term in terms}
            self.buffers |= {f"center_{term}": torch.zeros(prototypes) for term in terms}
        self.images_seen = 0

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        self.images_seen = batch.images_seen
        noised = self.noised(batch, draws)
        kept = keep_lowest(draws["token mask"], self.keep) if self.keep < self.tokens else None
        if not self.options.discriminates:
            return Terms(self.generative(self.run(model, noised, kept=kept), batch, noised))
        output, student = self.run(model, noised, kept=kept, with_logits=True, detach=self.options.detach_encoder_for_generation)
        teacher = self.teach(batch, noised, draws, kept)
        losses = self.generative(output, batch, noised)
        watched: dict[str, Tensor] = {}
        for term, weight in self.weights.items():
            if weight:
                loss, seen = self.compare(term, getattr(student, term), getattr(teacher, term).flatten(0, -2))
                losses[f"discriminative_{term}"] = weight * loss
                watched |= seen
        return Terms(losses, watched)

    @torch.no_grad()
    def teach(self, batch: CleanBatch, noised: Noised, draws: dict[str, Tensor], kept: Tensor | None):
        """The teacher's logits: its view is at a lower level on the same trajectory, and it sees all tokens."""
        uniform = draws.get("teacher noise level", torch.zeros(len(batch.images), 1, device=batch.images.device))[:, 0]
        t = lower_level(self.formulation, self.options.teacher_noise, noised.t, uniform, self.options.teacher_noise_ratio)
        cleaner = self.formulation.add_noise(batch.images, draws.get("teacher noise", noised.noise), t)
        return self.teacher.discriminate(*self.formulation.model_inputs(cleaner, t), noised.labels, kept)

    def compare(self, term: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy of one term, and values to log. Teacher logits (N, P); the student's flatten to the same shape."""
        temperature = self.options.teacher_temperature_at(self.images_seen, self.images)
        with torch.no_grad():
            if self.options.assignment == "centering":
                target = F.softmax((teacher - self.buffers[f"center_{term}"]) / temperature, dim=-1)
                self.means[f"center_{term}"].collect(teacher)
            else:
                target = sinkhorn(teacher / temperature)
            self.means[f"usage_{term}"].collect(target)
        predicted = F.log_softmax(student.flatten(0, -2) / self.options.student_temperature, dim=-1)
        loss = -(target * predicted).sum(-1).mean()
        own, largest = entropy(target).mean(), math.log(self.prototypes)
        watched = {f"teacher_entropy_{term}": own / largest, f"kl_{term}": loss.detach() - own,
                   f"prototype_usage_{term}": entropy(self.buffers[f"usage_{term}"]) / largest}
        if self.options.assignment == "centering":
            watched[f"center_norm_{term}"] = self.buffers[f"center_{term}"].norm()
        return loss, watched

    def teacher_momentum_at(self, images_seen: int) -> float:
        return self.options.teacher_momentum_at(images_seen, self.images)

    def after_step(self, mean_over_ranks) -> None:
        """Centers and usage are updated once per step by the mean over all its images, independent of ranks and micro batches."""
        for name, mean in self.means.items():
            mean.update(self.buffers[name], mean_over_ranks)

    def warning(self, watched: dict[str, float]) -> str:
        """Detects the two kinds of collapse: all tokens on one prototype, or uniform targets."""
        if self.images_seen < SETTLED * self.images:
            return ""
        for term in ("cls", "patch"):
            if watched.get(f"prototype_usage_{term}", 1.0) < ONE_PROTOTYPE:
                return (f"collapse at {self.images_seen} images: the teacher's {term} targets are all on one prototype (entropy of "
                        f"their mean {watched[f'prototype_usage_{term}']:.3f} of the maximum); a stronger center, "
                        "sinkhorn, or a higher teacher_temperature would help")
            if watched.get(f"teacher_entropy_{term}", 0.0) > UNIFORM:
                return (f"collapse at {self.images_seen} images: the teacher's {term} targets are uniform over the prototypes "
                        f"(entropy {watched[f'teacher_entropy_{term}']:.3f} of the maximum); a lower teacher_temperature "
                        "would help")
        return ""


def lower_level(formulation: Formulation, rule: str, t: Tensor, uniform: Tensor, ratio: float) -> Tensor:
    """Levels (B,) at or below ``t`` for the cleaner view of a pair, in the formulation's unit.

    ``sigma_min``: the lowest level; ``same``: t; ``uniform_below``: uniform between 0 and t, from draws (B,);
    ``ratio``: that share of t. Never below the lowest level.
    """
    if rule == "same":
        return t
    share = {"sigma_min": torch.zeros_like(uniform), "uniform_below": uniform, "ratio": torch.full_like(uniform, ratio)}[rule]
    lower = (share * t if t.is_floating_point() else whole(share, t)).clamp(min=formulation.cleanest)
    return torch.minimum(lower.to(t.dtype), t)
