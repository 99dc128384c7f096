"""Sampling settings and their cost in model evaluations, for config and planner, without torch."""

from dataclasses import dataclass

from ditscale.diffusion.options import FormulationOptions
from ditscale.diffusion.registry import by_name
from ditscale.errors import UserError

STOCHASTIC = ("ddpm", "sde")                                                   # also ddim with eta, heun and euler with churn
SAMPLER_OPTIONS = {"eta": "ddim", "sde_diffusion": "sde", "sde_norm": "sde", "sde_last_step": "sde", "sde_last": "sde",
                   "heun_last": "heun"}                                        # fields of Sampling used by only one sampler


@dataclass(frozen=True)
class Sampling:
    """A sampler, its steps and its options; ``docs/formulations.md`` lists which work with which formulation."""

    sampler: str
    steps: int
    respacing: str | tuple[int, ...] = "even"                                  # ddpm: even, ddim, or iDDPM's counts by section
    timesteps: tuple[int, ...] | None = None                                   # ddpm: these timesteps instead
    eta: float = 0.0                                                           # ddim: 0 no noise, 1 as much as ddpm's posterior
    churn: float = 0.0                                                         # edm, Alg. 2: S_churn, S_tmin and S_tmax, S_noise
    churn_interval: tuple[float, float] = (0.0, 1e6)
    churn_noise: float = 1.0
    sde_diffusion: str = "sigma"                                               # sde: w(t), one of samplers.DIFFUSIONS
    sde_norm: float = 0.5                                                      # sde: w(t) is twice this times DIFFUSIONS[...]
    sde_last_step: float = 0.04                                                # sde: the level from which one step leads to clean
    sde_last: str = "velocity"                                                 # sde: how that step is made; mean: also with the score
    heun_last: str = "euler"                                                   # heun on flow: the last step, euler or heun

    @property
    def evaluations(self) -> int:
        """Model evaluations (NFE) for one image, guidance counted once."""
        return evaluations(self.sampler, self.steps) + (self.heun_last == "heun")

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise during sampling."""
        return self.sampler in STOCHASTIC or self.eta > 0 or self.churn > 0

    def check(self, formulation) -> None:
        """Refuses contradictory settings. ``formulation`` is a formulation or its options.

        Raises:
            UserError: the sampler or an option does not work with this formulation.
        """
        if self.sampler not in formulation.samplers:
            raise UserError(f"evaluation.sampler '{self.sampler}' does not work with formulation '{formulation.name}': "
                            f"{', '.join(formulation.samplers)} would")
        defaults = Sampling(self.sampler, self.steps)
        for option, value in vars(self).items():
            sampler = SAMPLER_OPTIONS.get(option, self.sampler)
            owners = [name for name, options in by_name().items() if option in options.sampling_options]
            if value != getattr(defaults, option) and (sampler != self.sampler or owners and formulation.name not in owners):
                needed = [f"sampler {sampler}"] * (option in SAMPLER_OPTIONS) + [f"formulation {' or '.join(owners)}"] * bool(owners)
                raise UserError(f"evaluation.{option} is for {' and '.join(needed)}; it has no effect with formulation "
                                f"{formulation.name} and sampler {self.sampler}")
        if self.churn_interval[0] >= self.churn_interval[1]:
            raise UserError(f"evaluation.churn_interval {list(self.churn_interval)} must go from lower to higher sigma")

    def options(self, formulation) -> dict:
        """Other options that affect the samples, for the passport: those that this sampler reads and that are not at their default, and
        those of the formulation that affect its levels. ``formulation`` is a formulation or its options."""
        defaults = Sampling(self.sampler, self.steps)
        chosen = {name: value for name, value in vars(self).items() if value != getattr(defaults, name)}
        later = formulation.later_options
        stated = {name: getattr(formulation, name, later.get(name)) for name in formulation.passport_options}
        return chosen | {name: value for name, value in stated.items() if name not in later or value != later[name]}


def sampling_of(evaluation) -> Sampling:
    """The sampling that an ``EvaluationConfig`` describes."""
    names = [name for name in Sampling.__dataclass_fields__ if name not in ("sampler", "steps")]
    return Sampling(evaluation.sampler, evaluation.sampling_steps, **{name: getattr(evaluation, name) for name in names})


def without_others(preset: dict, chosen: dict) -> dict:
    """A preset's keys of sampling without those that only its own sampler reads, where ``chosen`` names another sampler."""
    sampler = chosen.get("sampler", preset.get("sampler"))
    return {key: value for key, value in preset.items() if sampler == preset.get("sampler") or SAMPLER_OPTIONS.get(key, sampler) == sampler}


def churned(level: float, sampling: Sampling) -> float:
    """EDM Alg. 2, lines 4 to 6: the raised level at which a step starts after fresh noise was added."""
    low, high = sampling.churn_interval
    return level * (1 + min(sampling.churn / sampling.steps, 2**0.5 - 1)) if low <= level <= high else level


def evaluations(sampler: str, steps: int) -> int:
    """Model evaluations (NFE) for one image, guidance counted once, with Heun's last step a plain Euler step."""
    return 2 * steps - 1 if sampler == "heun" else steps


def evaluated_levels(formulation, sampling: Sampling) -> list[float]:
    """The level of each model evaluation, ``evaluations`` of them, in no particular order."""
    levels = formulation.sampling_levels(sampling)
    starts = [churned(level, sampling) for level in levels[:-1]]
    if sampling.sampler != "heun":
        return starts
    return starts + (levels[1:] if sampling.heun_last == "heun" else levels[1:-1])


def forwards(formulation, sampling: Sampling, scale: float, interval: tuple[float, float] | None) -> int:
    """Forward passes of the model for one image: two for each evaluation that is guided, one for the others."""
    if scale == 1 or interval is None:
        return sampling.evaluations * (1 if scale == 1 else 2)
    return sum(2 if guided_at(level, scale, interval) else 1 for level in evaluated_levels(formulation, sampling))


def guided_at(level: float, scale: float, interval: tuple[float, float] | None) -> bool:
    """Whether guidance is used at a level; the interval includes both ends."""
    return scale != 1 and (interval is None or interval[0] <= level <= interval[1])


def check_interval(formulation: FormulationOptions, interval: tuple[float, float] | None) -> None:
    """Refuses an interval without noise levels.

    Raises:
        UserError: it is reversed, or outside the formulation's levels.
    """
    if interval is None:
        return
    low, high = interval
    if low >= high:
        raise UserError(f"evaluation.guidance_interval {[low, high]} is reversed or empty: [lower, higher] noise level, in "
                        f"{formulation.name}'s {formulation.level_unit}")
    if low < 0 or high > formulation.highest_level:
        raise UserError(f"evaluation.guidance_interval {[low, high]} is outside {formulation.name}'s levels: "
                        f"{formulation.level_unit}")
