"""A study's plan as tables for a terminal."""

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ditscale import terminal
from ditscale.cost.hardware import Machine
from ditscale.cost.memory import GIB
from ditscale.cost.roofline import ATTENTION, AVERAGES, ELEMENTWISE, MEMORY, NETWORK, OPTIMIZER, PRODUCTS, TEACHER, Kind
from ditscale.errors import count
from ditscale.studies.plan.epochs import as_epochs, epoch_lines
from ditscale.studies.plan.plan import ASSUMED_SPEED, MEASURED, PROBED, PlanRow, assumption_line, link_lines, makespan
from ditscale.studies.plan.scaleout import PAYS, RANKS, ScalingCurve
from ditscale.studies.spec.budget_grid import IsoFlopCurve, isoflop_curves
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.published_optima import disagreement

LONG = 2 * 86400                                                               # seconds; longer studies are not for a CPU
HASH = re.compile(r"-[0-9a-f]{8}$")
SEED = re.compile(r"-s\d+-[0-9a-f]{8}$")                                       # the end of a run's name
BOUND_COLUMNS = {"products": (PRODUCTS,), "attention": (ATTENTION,), "elementwise": (ELEMENTWISE,), "update": (OPTIMIZER, AVERAGES),
                 "teacher": (TEACHER,), "network": (NETWORK,)}
MARKS = {MEASURED: "", PROBED: " p", ASSUMED_SPEED: " ~"}


def show_plan(spec: Spec, rows: list[PlanRow], machine: Machine, at_once: int, price: float | None = None,
              scaling: Sequence[ScalingCurve] = (), encoding: Sequence[str] = (), *, wide: bool = False) -> None:
    """Prints the runs, the totals, and the study's other requirements.

    Args:
        price: per accelerator-hour.
        encoding: one-time cost of the data, see encoding.py.
        wide: one row per run with every column; otherwise runs that differ only in the seed share a row, and the table fits 120 columns.
    """
    phases: dict[str | None, list[PlanRow]] = {}
    for row in rows:
        phases.setdefault(row.phase, []).append(row)
    in_turn = sum(makespan(group, at_once) for group in phases.values())
    console = terminal.console(terminal.WIDE if wide else terminal.NARROW)
    if machine.kind == "cpu" and in_turn > LONG:
        console.print(f"No GPU here: this is a forecast for this CPU ({machine.name}). For GPUs: ditscale plan SPEC --on H100:8 --price 2.5")
    console.print(_every_run(spec, rows) if wide else _grouped(spec, rows))
    hours = sum(row.accelerator_hours for row in rows)
    money = f", {hours * price:,.2f} at {price:g} per hour" if price else ""
    console.print(f"Total: {sum(row.train_flops for row in rows):.3g} training, {sum(row.evaluation_flops for row in rows):.3g} evaluation FLOPs; "
                  f"{hours:{',.0f' if hours >= 100 else '.3g'}} accelerator-hours{money}; {as_time(in_turn)} ~", soft_wrap=True)
    console.print("Fits at: the smallest ZeRO stage that fits (Z0 to Z3), the micro batch, and the memory per accelerator.")
    has_branches = any(row.trunk for row in rows)
    if wide or not has_branches:
        console.print(f"{'tokens / param' if wide else 'tok/par'}: training tokens per parameter of the plain model, counting adaLN.")
    if has_branches:
        console.print(f"from: images of its trunk that a branch starts from; training FLOPs are its own.{'' if wide else ' --wide: tokens / param, epochs.'}")
    console.print("1 MAC = 2 FLOPs; DiT's papers call GMACs \"Gflops\". Training = 3 forwards (a teacher: 1). ~: forecast, p: forecast from a probe.")
    if products := _optimizer_line(rows):
        console.print(products)
    for line in epoch_lines(rows):
        console.print(line)
    console.print(assumption_line(machine, at_once))
    for name in spec.phases:
        console.print(_phase(name, phases.get(name, []), at_once))
    for line in [*encoding, *(spec.budgets.derivation() if spec.budgets else [])]:
        console.print(line)
    if spec.isoflop:
        _show_curves(isoflop_curves(spec.isoflop, spec.config, spec.name), console)
        console.print(disagreement(spec.isoflop.budgets))
    bounded = [row for row in rows if row.step and row.step.roofline]
    if bounded:
        groups = [[row] for row in bounded] if wide else _groups(bounded)
        _show_bounds(dict(zip([row.run_id for row in bounded] if wide else names(groups), (group[0] for group in groups))), console)
    steps = [row for row in rows if row.ranks > 1 and row.step]
    if steps:
        groups = [[row] for row in steps] if wide else _groups(steps)
        _show_steps(dict(zip([row.run_id for row in steps] if wide else names(groups), (group[0] for group in groups))), console)
    if scaling:
        _show_scaling(scaling, machine, console)
    for line in link_lines(machine) if steps or scaling else []:
        console.print(line)


def _optimizer_line(rows: list[PlanRow]) -> str:
    """What Muon's matrix products add to the training FLOPs, of which they are a part; "" if there are none."""
    added = sorted(row.optimizer_flops / (row.train_flops - row.optimizer_flops) for row in rows if row.optimizer_flops)
    if not added:
        return ""
    shares = f"{added[0]:.1%}" if added[0] == added[-1] else f"{added[0]:.1%} to {added[-1]:.1%}"
    return (f"Training FLOPs include the optimizer's matrix products in {count(len(added), 'run')}: {shares} on top of the model's, once a step; "
            "a larger batch lowers this share.")


def _every_run(spec: Spec, rows: list[PlanRow]) -> Table:
    table = Table(title=f"{spec.name}: {count(len(rows), 'run')}", title_justify="left")
    has_branches = any(row.trunk for row in rows)
    for name in ("run", "state", "parameters", "tokens", "GMACs / image", *["from"] * has_branches, "images", "epochs", "tokens / param", "training FLOPs",
                 "evaluation FLOPs", "fits at", "images/s", "time left"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=name == "run")
    for row in rows:
        start = [f"{row.start_images:,}"] * has_branches
        table.add_row(row.run_id, row.state, f"{row.parameters:,}", str(row.tokens), f"{row.macs / 1e9:.4g}", *start, f"{row.images:,}", as_epochs(row.epochs),
                      f"{row.tokens_per_parameter:.3g}", f"{row.train_flops:.3g}", f"{row.evaluation_flops:.3g}", _fit(row), *_times(row))
    return table


def _grouped(spec: Spec, rows: list[PlanRow]) -> Table:
    """A row for the runs of one recipe, length and state, which differ only in the seed; the title has what is the same for all."""
    groups, states, lengths = _groups(rows), {row.state for row in rows}, {row.images for row in rows}
    epochs = {row.epochs for row in rows}
    seen = f" ({as_epochs(next(iter(epochs)))} epochs)" if len(epochs) == 1 and None not in epochs else ""
    title = f"{spec.name}: {count(len(rows), 'run')}" + (f", all {next(iter(states))}" if len(states) == 1 and len(rows) > 1 else "")
    title += f", {next(iter(lengths)):,} images each{seen}" if len(lengths) == 1 and len(rows) > 1 else ""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    has_branches = any(row.trunk for row in rows)                              # tok/par is then only in the wide table, as epochs are
    is_left_out = {"state": len(states) == 1, "images": len(lengths) == 1 and len(rows) > 1, "from": not has_branches, "tok/par": has_branches}
    columns = [name for name in ("run", "state", "params", "MACs", "from", "images", "tok/par", "train FLOPs", "fits at", "images/s", "time left")
               if not is_left_out.get(name)]
    for name in columns:                                                       # a long name takes two lines; numbers are not cut
        table.add_column(name.replace("train ", "train\n"), justify="left" if name in ("run", "state") else "right", no_wrap=name != "run")
    for name, group in zip(names(groups), groups):
        first = group[0]
        name = name if len(group) == 1 else f"{name} x {len(group)}"
        speed, left = _times(max(group, key=lambda row: row.seconds_left))
        if not first.seconds_left:                                             # all are done
            speed = as_speed(sum(row.images_per_second for row in group) / len(group))
        cells = {"run": name, "state": first.state, "params": short_count(first.parameters), "MACs": short_count(first.macs),
                 "from": short_count(first.start_images) if first.trunk else "",
                 "images": short_count(first.images),
                 "tok/par": f"{first.tokens_per_parameter:.3g}", "train FLOPs": f"{first.train_flops:.2e}",
                 "fits at": _fit(first).replace("ZeRO-", "Z"), "images/s": speed, "time left": left}
        table.add_row(*(cells[column] for column in columns))
    return table


def names(groups: Sequence[Sequence]) -> list[str]:
    """A name for each group of runs (with ``run_id``, ``recipe`` and ``settings``) that differ only in the seed. If groups with several
    recipes would have the same name, it includes what the study sets in them, or else the recipe."""
    short = [(SEED if len(group) > 1 else HASH).sub("", group[0].run_id) for group in groups]
    recipes: dict[str, dict[str, str]] = {}
    for name, group in zip(short, groups):
        recipes.setdefault(name, {})[group[0].recipe] = group[0].settings
    return [name if len(recipes[name]) == 1 else f"{name} ({_differing(recipes[name], group[0].recipe)})" for name, group in zip(short, groups)]


def _differing(settings: dict[str, str], recipe: str) -> str:
    """Of one recipe's settings those that not all recipes have; the recipe itself where these do not tell it from the others."""
    parts = {name: text.split(", ") for name, text in settings.items()}
    shared = set.intersection(*map(set, parts.values()))
    short = {name: ", ".join(part for part in own if part not in shared) for name, own in parts.items()}
    return short[recipe] if len(set(short.values())) == len(short) and short[recipe] else recipe


def _groups(rows: list[PlanRow]) -> list[list[PlanRow]]:
    groups: dict[tuple, list[PlanRow]] = {}
    for row in rows:
        # The progress of active runs differs: only runs that have not begun or have ended share a row.
        begun = row.run_id if row.images_seen not in (row.start_images, row.images) else ""
        groups.setdefault((row.recipe, row.state, row.basis, row.phase, begun), []).append(row)
    return list(groups.values())


def _times(row: PlanRow) -> tuple[str, str]:
    guess = MARKS[row.basis] if row.seconds_left else ""
    return as_speed(row.images_per_second) + guess, as_time(row.seconds_left) + guess


def short_count(count: int) -> str:
    """``32.9 M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def _phase(name: str, rows: list[PlanRow], at_once: int) -> str:
    """The cost of one phase, in one line."""
    if not rows:
        return f"Phase {name}: no runs"
    return (f"Phase {name}: {count(len(rows), 'run')}, {sum(row.train_flops for row in rows):.3g} training FLOPs, "
            f"{sum(row.accelerator_hours for row in rows):,.3g} accelerator-hours left, {as_time(makespan(rows, at_once))}")


def _show_curves(found: list[IsoFlopCurve], console: Console) -> None:
    """The sizes of each budget's models relative to the expected optimum."""
    table = Table(title="isoFLOP curves: models, and their size to the expected optimum", title_justify="left")
    for name in ("FLOPs", "optimum N*", "models", "check"):
        table.add_column(name, justify="right" if name in ("FLOPs", "optimum N*") else "left")
    for curve in found:
        models = "  ".join(f"{name.removeprefix('DiT-')} {size / curve.optimum:.2g}x" for name, size in curve.models.items())
        table.add_row(f"{curve.flops:g}", f"{curve.optimum / 1e6:.3g} M", models, curve.warning or "centered")
    console.print(table)
    console.print("N: training FLOPs per image / (6 x tokens at patch 2). 2 to 4 times to each side is recommended: farther out, the "
                  "parabola's minimum is biased.")


def _show_bounds(rows: dict[str, PlanRow], console: Console) -> None:
    """The least time of a step by what it computes, what limits it, and the time that is expected, by name."""
    table = Table(title="The least time of a step in ms: its operations at the device's peaks (forecast)", title_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("run", "bound", "limit", "expected", *BOUND_COLUMNS):
        table.add_column(name, justify="left" if name in ("run", "limit") else "right", no_wrap=name == "run")
    for name, row in rows.items():
        bound = row.step.roofline
        kinds = {kind.name: kind for kind in (*bound.kinds, *bound.beside)}
        cells = [[kinds[kind] for kind in column if kind in kinds] for column in BOUND_COLUMNS.values()]
        table.add_row(name, f"{1e3 * bound.bound_seconds:.3g}", bound.limit, f"{1e3 * row.step.seconds:.3g}", *map(_least, cells))
    console.print(table)
    console.print("m: limited by the memory's speed, else by computing. Communication overlaps with computation. docs/roofline.md")


def _least(kinds: list[Kind]) -> str:
    """The least milliseconds of some kinds, marked where their slowest is limited by the memory."""
    if not kinds:
        return ""
    slowest = max(kinds, key=lambda kind: kind.seconds)
    return f"{1e3 * sum(kind.seconds for kind in kinds):.3g}{' m' if slowest.limit == MEMORY else ''}"


def _show_steps(rows: dict[str, PlanRow], console: Console) -> None:
    """The parts of a step's time in runs with several ranks, by name."""
    table = Table(title="A step of runs on several ranks (forecast)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("run", "ranks", "ZeRO", "model", "overhead", "communication", "exposed", "sent per rank", "efficiency"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=name == "run")
    for name, row in rows.items():
        step = row.step
        table.add_row(name, str(row.ranks), str(row.strategy_stage), _ms(step.compute_seconds), _ms(step.overhead_seconds),
                      _ms(step.communication_seconds), _ms(step.exposed_seconds), f"{step.sent_bytes / 1e6:,.4g} MB",
                      f"{step.efficiency:.0%}")
    console.print(table)


def _show_scaling(found: Sequence[ScalingCurve], machine: Machine, console: Console) -> None:
    """Prints a row per shape of run: images/s and efficiency on increasing numbers of accelerators, and where to stop."""
    table = Table(title=f"images/s and efficiency by number of {machine.name}", title_justify="left")
    for name in ("runs", "batch", "ZeRO", *map(str, RANKS), "pays to"):
        table.add_column(name, justify="left" if name == "runs" else "right", no_wrap=name == "runs")
    for curve in found:
        points = {point.ranks: f"{point.images_per_second:,.0f}\n{point.step.efficiency:.0%}" for point in curve.points}
        table.add_row(f"{curve.name} ({curve.runs})", f"{curve.global_batch:,}", str(curve.stage),
                      *(points.get(ranks, "") for ranks in RANKS), f"{curve.pays_to or '-'}")
    console.print(table)
    console.print(f"Pays to: up to here, twice the accelerators give at least {PAYS:g} times the images/s. Efficiency: the share of a step in "
                  "which the model computes. Empty: the batch does not divide, or nothing fits.")
    console.print("Micro batch: the largest that fits. The share of peak is assumed to be the same at every micro batch, which is optimistic for "
                  "small ones: measure before you rely on it.")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms" if seconds < 10 else f"{seconds:,.0f} s"


def _fit(row: PlanRow) -> str:
    probed = f" ({_bytes(row.probed_memory_bytes)} probed)" if row.probed_memory_bytes else ""
    if row.memory_bytes is None:
        return "nothing" + probed
    return f"ZeRO-{row.zero_stage}, {row.micro_batch}: {_bytes(row.memory_bytes)}{probed}"


def _bytes(count: int) -> str:
    gib = count / GIB
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{1024 * gib:.0f} MiB"


def as_time(seconds: float) -> str:
    """``4:05``, ``1:23:45``; from two days ``12.3 days``, from two years ``39.8 years``."""
    days = seconds / 86400
    if days >= 2:
        return f"{days / 365.25:,.1f} years" if days >= 2 * 365.25 else f"{days:,.1f} days" if days < 100 else f"{days:,.0f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def as_speed(images_per_second: float) -> str:
    """``1,234``; below 10 with two digits, ``0.28``."""
    return f"{images_per_second:,.0f}" if images_per_second >= 10 or not images_per_second else f"{images_per_second:.2g}"
