"""The interface of objectives, and what they share: noising a batch and dropping labels."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ditscale.diffusion.formulation import Formulation
from ditscale.models.masking import keep_lowest
from ditscale.randomness import Normal, Uniform


class CleanBatch(NamedTuple):
    """Images (B, C, S, S) in fp32, scaled to [-1, 1] or latent units; labels (B,); images seen before this global batch; stored features of the
    images (B, T', d), if the objective reads them."""

    images: Tensor
    labels: Tensor
    images_seen: int = 0
    features: Tensor | None = None


class Terms(NamedTuple):
    """Named scalars in fp32: the training loss is the sum of ``losses``; ``watched`` are logged and have no gradient."""

    losses: dict[str, Tensor]
    watched: dict[str, Tensor] = {}

    @property
    def loss(self) -> Tensor:
        """The training loss."""
        return functools.reduce(operator.add, self.losses.values())


class Noised(NamedTuple):
    """A batch at its noise levels t (B,), with labels dropped to the null class."""

    noisy: Tensor
    noise: Tensor
    t: Tensor
    labels: Tensor


class Objective:
    """A variant's loss. A pure function of (model, batch, draws), except for the state that a variant keeps between steps.

    Args:
        formulation: how to noise and what to predict; objectives do not depend on which.
        image_shape: (C, S, S).
        num_classes: also the index of the null class.
        images: the total training length, for schedules.

    A variant with a teacher (``has_teacher``) gets one from the training loop: a callable with averaged weights.
    ``buffers`` is other state that must survive a restart; ``after_step`` updates it after each optimizer step.
    """

    has_teacher = False
    keep: int | None = None                                                    # tokens that a masked pass keeps, at the nominal ratio

    def __init__(self, formulation: Formulation, image_shape: tuple[int, int, int], *, num_classes: int,
                 class_dropout_prob: float, images: int):
        self.formulation, self.image_shape, self.images = formulation, image_shape, images
        self.null_class, self.class_dropout_prob = num_classes, class_dropout_prob
        self.streams: dict[str, Normal | Uniform] = {"noise": Normal(image_shape), "noise level": Uniform(), "label drop": Uniform()}
        self.buffers: dict[str, Tensor] = {}
        self.teacher: Any = None                                               # a model of averaged weights

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        """The terms of one micro batch. ``model`` is called as ``model(x, t, y)``, with further arguments of the variant's model."""
        raise NotImplementedError

    def held_out(self, model, images: Tensor, noised: Noised, mask: Tensor) -> dict[str, Tensor]:
        """The formulation's loss per image (B,) with no token masked, the same quantity for every variant, as ``loss``. A variant
        that trains on masked tokens adds ``loss_masked``: its training loss at the nominal mask ratio.

        Args:
            model: in eval mode.
            mask: (B, T) uniform draws; the lowest are kept.
        """
        found = {"loss": per_image_loss(self.formulation.loss(self.run(model, noised), images, noised.noise, noised.t))}
        if self.keep is not None and self.keep < mask.shape[1]:
            kept = keep_lowest(mask, self.keep)
            terms = self.formulation.loss(self.run(model, noised, kept=kept), images, noised.noise, noised.t)
            found["loss_masked"] = per_image_loss(self.trained_on(terms, kept))
        return found

    def trained_on(self, terms: dict[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
        """The part of a masked pass's elementwise terms used in its loss; by default all of them."""
        return terms

    def noised(self, batch: CleanBatch, draws: dict[str, Tensor]) -> Noised:
        """The noised batch; the same for every variant, so that they train on the same noise."""
        noise, t = draws["noise"], self.formulation.level(draws["noise level"][:, 0])
        dropped = draws["label drop"][:, 0] < self.class_dropout_prob
        return Noised(self.formulation.add_noise(batch.images, noise, t), noise, t,
                      batch.labels.masked_fill(dropped, self.null_class))

    def run(self, model, noised: Noised, **more):
        """The model's raw output for a noised batch; ``more`` are further arguments of a variant's model."""
        return model(*self.formulation.model_inputs(noised.noisy, noised.t), noised.labels, **more)

    def generative(self, output: Tensor, batch: CleanBatch, noised: Noised, name: str = "generative") -> dict[str, Tensor]:
        """The formulation's loss over all tokens, by its terms' names."""
        return named_means(name, self.formulation.loss(output, batch.images, noised.noise, noised.t))

    def teacher_momentum_at(self, images_seen: int) -> float:
        """The teacher's decay for the optimizer step that ends at ``images_seen``; only if ``has_teacher``."""
        raise NotImplementedError

    def after_step(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Updates ``buffers`` from the step's micro batches. ``mean_over_ranks`` is collective."""

    def warning(self, watched: dict[str, float]) -> str:
        """A problem, judged by the means of ``watched``; "" if there is none."""
        return ""


def named_means(name: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reduces elementwise terms to scalars: ``name`` for a single term, ``name_<term>`` for several."""
    return {name if len(terms) == 1 else f"{name}_{term}": values.mean() for term, values in terms.items()}


def per_image_loss(terms: dict[str, Tensor]) -> Tensor:
    """The sum over terms of their means per image (B,)."""
    return torch.stack([values.flatten(1).mean(1) for values in terms.values()]).sum(0)
