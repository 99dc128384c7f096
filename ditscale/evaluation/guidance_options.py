"""Options of ``evaluation.guidance: best``: the guidance scale of each checkpoint is searched, as models compared at one scale are not at their best.

The best scale falls with a model's size and with training, and differs by metric. So the scale is chosen on samples of one seed and the score
reported on samples of another: the lowest of many scores on the same samples would be too low.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ditscale.diffusion.nfe import check_interval
from ditscale.errors import UserError
from ditscale.scaling.golden import most_points
from ditscale.section import Count, Section

Interval = Annotated[tuple[float, float], Field(strict=False)]

FEW, BEST = 5000, 3                                                            # samples of each scale at first; how many get all samples


class GuidanceSearch(Section):
    """Where the best guidance is looked for."""

    scales: Interval = (1.0, 4.0)                                              # lowest and highest scale
    points: Count = Field(default=25, ge=3, le=1000)                           # of the grid between them, even in ln scale
    intervals: tuple[Interval, ...] = Field(default=(), strict=False)          # also tried, next to guidance_interval
    samples: Count | None = Field(default=None, gt=1)                          # of each scale at first; default 5000, or all if fewer
    seed: Count = Field(default=1_000_000, ge=0)                               # of the samples that choose; never the reported ones

    @model_validator(mode="after")
    def _check_scales(self):
        low, high = self.scales
        if not 0 < low < high:
            raise UserError(f"evaluation.guidance_search.scales {[low, high]}: give the lowest and the highest scale, for example [1, 4]")
        return self

    def grid(self) -> list[float]:
        """The scales, ascending, to four digits."""
        low, high = self.scales
        return [float(f"{low * (high / low) ** (i / (self.points - 1)):.4g}") for i in range(self.points)]

    def first_samples(self, samples: int) -> int:
        """How many samples each scale gets at first, of ``samples`` in all."""
        return min(self.samples or FEW, samples)

    def most_images(self, samples: int) -> int:
        """The most images that the search can make, of ``samples`` that are scored."""
        few = self.first_samples(samples)
        return most_points(self.points) * (1 + len(self.intervals)) * few + (BEST * samples if few < samples else 0)


def _known(value: Any) -> Any:
    if value not in ("best", None):
        raise UserError(f"'evaluation.guidance' is {value!r}: should be 'best', or left out for the stated evaluation.guidance_scale")
    return value


class SampleChoice(Section):
    """The keys of the section ``evaluation`` on how many samples are scored, and how their guidance is chosen."""

    samples: Count = Field(gt=1)
    seed: Count = Field(default=0, ge=0)
    guidance: Annotated[Literal["best"] | None, BeforeValidator(_known)] = None    # best: searched per checkpoint; None: guidance_scale
    guidance_search: GuidanceSearch | None = None                              # of guidance: best

    @property
    def search(self) -> GuidanceSearch:
        return self.guidance_search or GuidanceSearch()

    @property
    def most_images(self) -> int:
        """The most images that an evaluation makes: those that are scored, and those of a search."""
        return self.samples + (self.search.most_images(self.samples) if self.guidance else 0)


def check_guidance(evaluation: Any, run: Any) -> None:
    """Refuses a choice of guidance that contradicts the rest of the section ``evaluation`` of a run.

    Raises:
        UserError: as the message says.
    """
    if evaluation.guide is not None and evaluation.guidance is None and evaluation.guidance_scale == 1:
        raise UserError(f"evaluation.guide {evaluation.guide} has no effect with evaluation.guidance_scale 1; give a scale above 1, or guidance best")
    if evaluation.guidance is None:
        if evaluation.guidance_search is not None:
            raise UserError("evaluation.guidance_search has no effect without evaluation.guidance best; leave it out")
        return
    search = evaluation.search
    if evaluation.guidance_scale != 1:
        raise UserError(f"evaluation.guidance_scale {evaluation.guidance_scale:g} contradicts evaluation.guidance best, which chooses the scale; "
                        "leave one out")
    if run.model.class_dropout_prob == 0 and evaluation.guide is None:
        raise UserError("evaluation.guidance best needs model.class_dropout_prob above 0: without label dropout there is no unconditional model "
                        "to guide with")
    if evaluation.seed == search.seed:
        raise UserError(f"evaluation.seed {evaluation.seed} is also evaluation.guidance_search.seed: the score is reported on other samples than those that "
                        "choose the guidance; change one of them")
    if search.samples is not None and search.samples > evaluation.samples:
        raise UserError(f"evaluation.guidance_search.samples {search.samples} is more than evaluation.samples {evaluation.samples}; give fewer: all are made "
                        f"for the best {BEST} anyway")
    for interval in search.intervals:
        check_interval(run.formulation, interval)
