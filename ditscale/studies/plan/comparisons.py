"""Which recipes a planned study compares: at equal images where it has them, else at equal training FLOPs.

In a study that sets ``train.flops`` some methods see as many images as the plain model and others do not; its comparisons are those at equal FLOPs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ditscale.cost.runs import training_flops
from ditscale.evaluation.metrics.table import LOSS
from ditscale.objectives import BASELINE
from ditscale.scaling.evidence import SAME
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.schedule import due_images, validated_images


@dataclass(frozen=True)
class Comparison:
    """Recipes of one model that the study compares with one of them, with equal numbers of seeds.

    Attributes:
        images: of all; None where these differ, and training FLOPs are equal.
        flops: of training, the most of any; at equal FLOPs ``spread`` is most / least - 1.
        costs: of the points of the baseline's curves.
    """

    model: str
    images: int | None
    flops: float
    spread: float
    names: tuple[str, ...]
    baseline: str
    seeds: tuple[int, int]
    costs: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Recipe:
    """The runs of a recipe, which differ in their seeds."""

    runs: list[PlannedRun]
    flops: float

    @property
    def config(self):
        return self.runs[0].config

    @property
    def variant(self) -> str:
        return self.config.objective.name

    @property
    def most(self) -> float:
        """A budget that this run meets is below it: lengths are whole batches, and 5 % counts as the same elsewhere too."""
        return self.flops * (1 + max(SAME, self.config.train.global_batch / self.config.train.images))


def comparisons(runs: Sequence[PlannedRun], metric: str) -> tuple[list[Comparison], list[str]]:
    """What the study compares, each with the plain recipe or with the first, and the names of recipes that are compared with nothing.

    Args:
        metric: whose checkpoints are the points of a curve.
    """
    cells: dict[tuple[str, str], list[PlannedRun]] = {}
    for planned in runs:
        cells.setdefault((planned.config.model.name, planned.config.recipe()), []).append(planned)
    models: dict[str, list[_Recipe]] = {}
    for (model, _), own in cells.items():
        models.setdefault(model, []).append(_Recipe(own, float(training_flops(own[0].config, own[0].config.train.images))))
    found, alone = [], []
    for model, recipes in models.items():
        groups, covered = _groups(recipes)
        for group in groups:
            found += _compared(model, group, covered, runs, metric)
        inside = {one for group in groups for one in group}
        alone += [f"{_name(one, recipes)} of {model} at {one.config.train.images:,} images" for one in recipes if one not in inside]
    return found, alone


def _groups(recipes: list[_Recipe]) -> tuple[list[list[_Recipe]], set[_Recipe]]:
    """The recipes that are compared, by equal images and then by equal FLOPs, and those that are compared at equal images.

    Equal images are a coincidence where more recipes have these FLOPs. So a group of equal FLOPs replaces those of equal images inside it, unless it
    has a part of a further one.
    """
    of_length: dict[int, list[_Recipe]] = {}
    for one in recipes:
        of_length.setdefault(one.config.train.images, []).append(one)
    budgets = _budgets(recipes)
    shared = [set(group) for group in of_length.values() if len(group) > 1]
    whole = [set(budget) for budget in budgets if all(group <= set(budget) or not group & set(budget) for group in shared)]
    images = [group for group in of_length.values() if len(group) > 1 and not any(set(group) < budget for budget in whole)]
    covered = {one for group in images for one in group}
    return images + [budget for budget in budgets if len(budget) > 1 and not covered >= set(budget)], covered


def _budgets(recipes: list[_Recipe]) -> list[list[_Recipe]]:
    """The recipes by equal training FLOPs, each group in the order of the study."""
    groups: list[list[_Recipe]] = []
    for one in sorted(recipes, key=lambda recipe: recipe.flops):
        if groups and one.flops < min(other.most for other in groups[-1]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [sorted(group, key=recipes.index) for group in groups]


def _compared(model: str, group: list[_Recipe], covered: Iterable[_Recipe], runs: Sequence[PlannedRun], metric: str) -> list[Comparison]:
    """The other recipes of a group with its plain one, or with the first; of a group at equal FLOPs those without a comparison at equal images."""
    first = next((one for one in group if one.variant == BASELINE), group[0])
    others = [one for one in group if one is not first]
    lengths = {one.config.train.images for one in group}
    if len(lengths) > 1:
        others = [one for one in others if one not in covered] or others
    by_seeds: dict[int, list[_Recipe]] = {}
    for one in others:
        by_seeds.setdefault(_seeds(one), []).append(one)
    costs, flops = _costs(first.runs[0], runs, metric), [one.flops for one in (first, *others)]
    images = first.config.train.images if len(lengths) == 1 else None
    return [Comparison(model, images, max(flops), max(flops) / min(flops) - 1,
                       tuple(_name(one, group) for one in own), _name(first, group), (seeds, _seeds(first)), costs) for seeds, own in by_seeds.items()]


def _seeds(recipe: _Recipe) -> int:
    return len({planned.config.seed for planned in recipe.runs})


def _name(recipe: _Recipe, among: list[_Recipe]) -> str:
    """The variant, and where another recipe has it too, what the study sets for this one and not for all."""
    name = recipe.variant
    common = set.intersection(*(set(_settings(one)) for one in among)) if len(among) > 1 else set()
    own = [one for one in _settings(recipe) if one not in common and one != name]
    told_apart = sum(one.variant == name for one in among) == 1
    return name if told_apart or not own else f"{name} ({', '.join(own)})"


def _settings(recipe: _Recipe) -> list[str]:
    return [one for one in recipe.runs[0].settings.split(", ") if one]


def _costs(planned: PlannedRun, runs: Sequence[PlannedRun], metric: str) -> tuple[float, ...]:
    """Of the points of a curve: a run's scored checkpoints; with branches the ends of a trunk's lengths, and none for a branch alone."""
    config = planned.config
    if config.parent:
        return ()
    if config.resources.branch_images:
        family = [one.config for one in runs if one.config.parent and one.config.parent.run == planned.run_id]
        return tuple(sorted(float(training_flops(one, one.train.images)) for one in (*family, config)))
    return tuple(float(training_flops(config, seen)) for seen in (validated_images(config) if metric == LOSS else due_images(config)))
