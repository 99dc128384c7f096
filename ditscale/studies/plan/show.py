"""A study's plan as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ditscale.cost.hardware import Machine
from ditscale.cost.memory import GIB
from ditscale.studies.plan.plan import ASSUMED_SPEED, MEASURED, PROBED, PlanRow, assumption_line, link_lines, makespan
from ditscale.studies.plan.scaleout import PAYS, RANKS, ScalingCurve
from ditscale.studies.spec.budget_grid import IsoFlopCurve, isoflop_curves
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.published_optima import disagreement

MARKS = {MEASURED: "", PROBED: " p", ASSUMED_SPEED: " ~"}


def show_plan(spec: Spec, rows: list[PlanRow], machine: Machine, at_once: int, price: float | None = None,
              scaling: Sequence[ScalingCurve] = (), encoding: Sequence[str] = ()) -> None:
    """Print a row a run and the totals, and what the study asks for besides.

    ``price`` is for one accelerator and one hour, ``encoding`` what the data cost once, see encoding.py.
    """
    table = Table(title=f"{spec.name}: {len(rows)} runs", title_justify="left")
    for name in ("run", "state", "parameters", "tokens", "GMACs / image", "images", "training FLOPs", "sampling FLOPs", "fits at",
                 "images/s", "time left"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=name == "run")
    for row in rows:
        guess = MARKS[row.basis] if row.seconds_left else ""
        table.add_row(row.run_id, row.state, f"{row.parameters:,}", str(row.tokens), f"{row.macs / 1e9:.4g}", f"{row.images:,}",
                      f"{row.train_flops:.3g}", f"{row.evaluation_flops:.3g}", _fit(row), f"{row.images_per_second:,.0f}{guess}",
                      as_clock(row.seconds_left) + guess)
    phases: dict[str | None, list[PlanRow]] = {}
    for row in rows:
        phases.setdefault(row.phase, []).append(row)
    in_turn = sum(makespan(group, at_once) for group in phases.values())
    table.add_section()
    table.add_row("total", "", "", "", "", f"{sum(row.images for row in rows):,}", f"{sum(row.train_flops for row in rows):.3g}",
                  f"{sum(row.evaluation_flops for row in rows):.3g}", "", "", as_clock(in_turn) + " ~")
    hours = sum(row.accelerator_hours for row in rows)
    console = wide_console()
    console.print(table)
    console.print(f"{hours:,.3g} accelerator-hours left" + (f", {hours * price:,.2f} at {price:g} an hour" if price else "")
                  + ". Fits at: the smallest ZeRO stage for the micro batch, and what an accelerator then holds.")
    console.print("1 MAC = 2 FLOPs; DiT's papers call GMACs \"Gflops\". Training = 3 forwards (a teacher: 1). ~ is a forecast, p one from a probe.")
    console.print(assumption_line(machine, at_once))
    for name in spec.phases:
        console.print(_phase(name, phases.get(name, []), at_once))
    for line in [*encoding, *(spec.budgets.derivation() if spec.budgets else [])]:
        console.print(line)
    if spec.isoflop:
        _show_curves(isoflop_curves(spec.isoflop, spec.config, spec.name), console)
        console.print(disagreement(spec.isoflop.budgets), soft_wrap=True)
    steps = [row for row in rows if row.ranks > 1 and row.step]
    if steps:
        _show_steps(steps, console)
    if scaling:
        _show_scaling(scaling, machine, console)
    for line in link_lines(machine) if steps or scaling else []:
        console.print(line)


def _phase(name: str, rows: list[PlanRow], at_once: int) -> str:
    """What one phase takes, in a line."""
    if not rows:
        return f"Phase {name}: no runs"
    return (f"Phase {name}: {len(rows)} runs, {sum(row.train_flops for row in rows):.3g} training FLOPs, "
            f"{sum(row.accelerator_hours for row in rows):,.3g} accelerator-hours left, {as_clock(makespan(rows, at_once))}")


def _show_curves(found: list[IsoFlopCurve], console: Console) -> None:
    """Where each budget's models lie around the size that is expected to be best."""
    table = Table(title="isoFLOP curves: models, and their size to the expected optimum", title_justify="left")
    for name in ("FLOPs", "optimum N*", "models", "check"):
        table.add_column(name, justify="right" if name in ("FLOPs", "optimum N*") else "left")
    for curve in found:
        models = "  ".join(f"{name.removeprefix('DiT-')} {size / curve.optimum:.2g}x" for name, size in curve.models.items())
        table.add_row(f"{curve.flops:g}", f"{curve.optimum / 1e6:.3g} M", models, curve.warning or "centered")
    console.print(table)
    console.print("N: training FLOPs of an image / (6 x tokens at patch 2). 2 to 4 times to each side is recommended: further out, the "
                  "parabola's minimum is biased.")


def _show_steps(rows: list[PlanRow], console: Console) -> None:
    """Where the time of a step goes in runs of several ranks."""
    table = Table(title="A step of runs of several ranks (forecast)", title_justify="left")
    for name in ("run", "ranks", "ZeRO", "model", "beside it", "communication", "of it exposed", "sent a rank", "efficiency"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=name == "run")
    for row in rows:
        step = row.step
        table.add_row(row.run_id, str(row.ranks), str(row.strategy_stage), _ms(step.compute_seconds), _ms(step.overhead_seconds),
                      _ms(step.communication_seconds), _ms(step.exposed_seconds), f"{step.sent_bytes / 1e6:,.4g} MB",
                      f"{step.efficiency:.0%}")
    console.print(table)


def _show_scaling(found: Sequence[ScalingCurve], machine: Machine, console: Console) -> None:
    """Print a row a shape of run: images/s and efficiency on more and more accelerators, and where to stop."""
    table = Table(title=f"images/s, and efficiency, on so many {machine.name}", title_justify="left")
    for name in ("runs", "batch", "ZeRO", *map(str, RANKS), "pays to"):
        table.add_column(name, justify="left" if name == "runs" else "right", no_wrap=name == "runs")
    for curve in found:
        points = {point.ranks: f"{point.images_per_second:,.0f}\n{point.step.efficiency:.0%}" for point in curve.points}
        table.add_row(f"{curve.name} ({curve.runs})", f"{curve.global_batch:,}", str(curve.stage),
                      *(points.get(ranks, "") for ranks in RANKS), f"{curve.pays_to or '-'}")
    console.print(table)
    console.print(f"Pays to: while twice the accelerators give at least {PAYS:g} times the images/s. Efficiency: the share of a step in "
                  "which the model computes. Empty: the batch does not divide, or nothing fits.")
    console.print("Micro batch: the largest that fits. The share of peak is taken to be the same at every micro batch, which flatters "
                  "small ones: measure before you believe it.")


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


def as_clock(seconds: float) -> str:
    """``1:23:45`` or ``4:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def wide_console() -> Console:
    """A terminal's own width; wide enough for whole tables where the output is a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)
