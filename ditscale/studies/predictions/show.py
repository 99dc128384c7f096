"""Predictions as text: one that was just made, and all of a study against actual results."""

import pandas as pd
from rich.console import Console

from ditscale.errors import UserError, count
from ditscale.scaling.predict import BY_LOSS
from ditscale.scaling.result import Fit
from ditscale.studies.predictions.check import OUTSIDE, PENDING, Outcome, outcomes, tally
from ditscale.studies.predictions.make import Made


def pinned_of(pins: tuple[str, ...]) -> dict[str, float]:
    """``("E=1.6",)`` as ``{"E": 1.6}``. Raises UserError for text that is not NAME=NUMBER."""
    found = {}
    for pin in pins:
        name, equals, value = pin.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"--pin {pin}: give NAME=X, for example --pin E=1.6")
    return found


def show_prediction(made: Made, record: dict, path: str, console: Console) -> None:
    """Prints what was predicted, how, from what, and where it was recorded."""
    target = made.target
    console.print(f"{target.model} {target.variant} after {target.images:,} images ({target.train_flops:.3g} training FLOPs, "
                  f"{target.tokens_per_parameter:.3g} tokens per parameter)")
    if made.loss:
        _show_value("loss", made.loss.value, made.loss.interval, console)
        console.print(f"  by {made.loss.way}: {made.loss.fit.form}{_coefficients(made.loss.fit)}; "
                      f"{count(made.loss.fit.n_runs, 'run')}, {made.loss.freedom} degrees of freedom; "
                      f"the target is {made.loss.reach:.3g} times beyond them" + (": far" if made.loss.far else ""))
        _show_hold_out(made.loss.last_rung.error if made.loss.last_rung else None, console)
    if made.score:
        _show_value(made.metric, made.score.value, made.score.interval, console)
        if made.score.how == BY_LOSS:
            console.print(f"  by the loss: {made.metric} = {made.score.link.score_floor:.4g} + K (loss - {made.score.link.loss_floor:.4g})^"
                          f"{made.score.link.exponent:.3g}; {made.score.link.one_line.sentence}")
        else:
            console.print("  " + (f"{made.score.why_not}; " if made.score.why_not else "") + f"by its own law, {made.score.law.way}: "
                          f"{made.score.law.fit.form}{_coefficients(made.score.law.fit)}")
        _show_hold_out(made.score.hold_out, console)
    models = list(dict.fromkeys(rung["model"] for rung in record["rungs"]))
    console.print(f"from {count(len(record['rungs']), 'run')} of {', '.join(models)}")
    if record["after"]:
        console.print(f"{target.model} has already run: this is marked and does not count as a prediction")
    console.print(f"recorded: {path}, sha256 {record['sha256'][:12]}, {record['date']}", soft_wrap=True)


def _coefficients(fit: Fit) -> str:
    """`` with E 0.35, A 0.51, ...``."""
    return " with " + ", ".join(f"{name} {value:.4g}" for name, value in fit.law.coefficients().items()) if fit.law else ""


def _show_value(name: str, value: float, interval, console: Console) -> None:
    console.print(f"{name} {value:.5g}, 95 % interval {interval.low:.5g} to {interval.high:.5g} "
                  f"({interval.low / value - 1:+.1%} to {interval.high / value - 1:+.1%})")


def _show_hold_out(error: float | None, console: Console) -> None:
    console.print("  hold-out: too few runs remain without the largest rung" if error is None else
                  f"  hold-out: predicted from the others, the largest rung is {error:+.1%} off")


def show_outcomes(records: list[dict], ledger: pd.DataFrame, console: Console) -> None:
    """Prints a line for each predicted value and run of its target, and how many held."""
    found = outcomes(records, ledger)
    for outcome in found:
        console.print(_line(outcome), soft_wrap=True)
    console.print(tally(found) if found else "no recorded prediction")


def _line(outcome: Outcome) -> str:
    text = (f"{outcome.date[:10]} {outcome.model} {outcome.variant} {outcome.images:,} images: {outcome.metric} {outcome.predicted:.5g} "
            f"({outcome.low:.5g} to {outcome.high:.5g}, {outcome.how}), ")
    met = "not run yet" if outcome.state == PENDING else (f"actual {outcome.actual:.5g} of {outcome.run_id}, {outcome.error:+.1%}: "
                                                          f"{outcome.state.upper() if outcome.state == OUTSIDE else outcome.state}")
    return text + met + (f" ({outcome.remark})" if outcome.remark else "")
