"""What a study may take at most; its file says it, so that a slip of the pen does not start a thousand runs."""

from ditscale.errors import UserError
from ditscale.studies.plan.plan import PlanRow
from ditscale.studies.spec.spec import Spec


def excess(spec: Spec, rows: list[PlanRow]) -> str:
    """Which of the study's limits its plan passes, in words; empty where none is. Only what is still to be spent counts."""
    if spec.limits is None:
        return ""
    hours = sum(row.accelerator_hours for row in rows)
    found = (("runs", len(rows), spec.limits.runs), ("accelerator_hours", hours, spec.limits.accelerator_hours),
             ("training FLOPs", sum(row.train_flops for row in rows), spec.limits.train_flops))
    return ", ".join(f"{name} {value:,.4g} of {limit:,.4g}" for name, value, limit in found if limit is not None and value > limit)


def check_limits(spec: Spec, rows: list[PlanRow]) -> None:
    """Raise UserError where the plan passes a limit."""
    if over := excess(spec, rows):
        raise UserError(f"{spec.name} is over its limits: {over}; narrow it with KEY=VALUE, raise limits in its file, or launch "
                        "with --over-limits")
