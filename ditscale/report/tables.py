"""The tables of the report page: every run at its end, the numbers of laws, the parts of the study."""

import math

import pandas as pd

from ditscale.errors import count
from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import one_length, study_table, style, variant_table
from ditscale.figures.plots import power_law
from ditscale.report import page
from ditscale.report.sources import joined


def runs(usable: pd.DataFrame) -> str:
    """One row per run, at its last evaluation, smallest model first; runs that differ only in the seed share a row. A value that all
    runs share has no column."""
    last = _by_recipe(usable.groupby("run_id", sort=False).tail(1))
    unit, symbol, _ = style.macs_unit(last["macs"])
    columns = {
        "Model": last["model"],
        "Variant": last["variant"],
        "Seed": last["seeds"],
        "Parameters": _cells(last["parameters"], style.short_count),
        f"{symbol} per image": (last["macs"] / unit).map("{:.3g}".format),
        "Images seen": last["images_seen"].map("{:,.0f}".format),
        "Training FLOPs": _cells(last["train_flops"], style.power_of_ten),
        **({"Tokens per parameter": _cells(last["tokens_per_parameter"], "{:.3g}".format)} if study_table.tokens_words(last) else {}),
        "Training time": _cells(last["train_seconds"], _duration),
        last["metric"].iloc[0]: [page.Cell(_score(row), row.score) for row in last.itertuples()],
        "Times the floor": (last["score"] / last["floor"]).map(lambda ratio: f"{ratio:.2f}" if ratio > 0 else "none"),
        "Finished": last["final"].map(lambda final: "yes" if final else "no"),
    }
    alike = {"Variant": "variant", "Seed": "seeds", "Images seen": "images_seen", "Finished": "final"}
    for name, column in alike.items():
        if last[column].nunique() == 1:
            del columns[name]
    return page.table(list(columns), zip(*columns.values()), set(range(1 + ("Variant" in columns), len(columns))),
                      sortable=True)


def _by_recipe(last: pd.DataFrame) -> pd.DataFrame:
    """A row for the runs of one recipe at one number of images: means of measured values, the score's ``lowest`` and ``highest``, and
    ``seeds`` as text."""
    rows = []
    for _, own in last.groupby([last["recipe"] if "recipe" in last else last["run_id"], "images_seen", "final"], sort=False):
        one = len(own) == 1
        rows.append({**own.iloc[0].to_dict(), "lowest": own["score"].min(), "highest": own["score"].max(), "runs": len(own),
                     **{name: own[name].mean() for name in ("score", "train_flops", "train_seconds")},
                     "seeds": own["seed"].iloc[0] if one else f"{joined([f'{seed:g}' for seed in sorted(own['seed'])])} (x {len(own)})"})
    return pd.DataFrame(rows)


def _score(row) -> str:
    """The score, or the mean and range over several seeds."""
    mean = style.score_text(row.score)
    return mean if row.runs == 1 else f"{mean} ({style.score_text(row.lowest)} to {style.score_text(row.highest)})"


def _cells(values: pd.Series, words) -> list[page.Cell]:
    """Cells with formatted numbers that sort as numbers."""
    return [page.Cell(words(value), value) for value in values]


def laws(laws: dict[str, power_law.StudyLaw]) -> list[str]:
    """The numbers of each law, one column per law, and the reason if a law or its interval is missing."""
    def numbers(law: power_law.StudyLaw) -> list[str | int]:
        fit, bounds = law.fit, law.intervals.coefficients.get("alpha")
        if not fit.drawable:
            return ["none"] * 6 + [fit.n_runs]
        return [
            f"{law.law.A:,.3g}", style.signed(law.law.alpha),
            f"{style.signed(bounds.low)} to {style.signed(bounds.high)}" if bounds else "none",
            f"{fit.r2:.3f}", f"a factor of {math.exp(fit.residual_spread):.3g}",
            style.percent(fit.hold_out.rms) if fit.hold_out else "none", fit.n_runs,
        ]
    names = ["A", "α", "95 % interval of α", "R² of ln y", "Residual spread of y",
             "Error (rms) with the largest x held out", "Runs"]
    rows = zip(names, *[numbers(law) for law in laws.values()])
    why = [page.note(f"Against {power_law.COSTS[cost]}: {law.intervals.sentence}.")
           for cost, law in laws.items() if not law.intervals.status.ok]
    why += [page.note(f"Against {power_law.COSTS[cost]}: {law.context['kept']}")
            for cost, law in laws.items() if law.context["kept"].startswith(one_length.KEPT)]
    return [
        page.paragraph("Least squares of ln y on ln x in y = A x^−α, one point per finished run. Intervals are "
                       "profiles of the sum of squares, with Student's t at (runs - 2) degrees of freedom. "
                       "The law has no floor term and does not hold beyond the range of its points."),
        page.table(["", *[f"x = {power_law.COSTS[cost]}" for cost in laws]], rows, numbers={1, 2}), *why,
    ]


def summary(table: pd.DataFrame, whole: pd.DataFrame) -> list[tuple[str, str]]:
    """A summary of the study from the scores of the table; ``whole`` has validation losses too."""
    last = table.sort_values("images_seen").groupby("run_id").tail(1)
    finished = int(table.groupby("run_id")["final"].any().sum())
    listed = {name: joined([str(v) if isinstance(v, str) else f"{v:,g}" for v in sorted(table[name].unique())])
              for name in ("variant", "formulation", "seed", "samples", "guidance_scale", "nfe", "device", "metric",
                           "passport")}
    runs, branches = last["variant"].value_counts(), last[last["branch_images"] > 0] if "branch_images" in last else last[:0]
    own = last.assign(**{name: last[f"own_{name}"] for name in ("train_flops", "train_seconds")}) if len(branches) else last
    by_variant = joined([f"{variant} {runs[variant]}" for variant in variant_table.variants_in_order(last)])
    metrics = set(table["metric"])
    return [
        ("Runs", f"{last['run_id'].nunique()}, of which {finished} finished"),
        *([("Runs by variant", by_variant)] if len(runs) > 1 else []),
        *([("Branches", _branches(branches))] if len(branches) else []),
        ("Evaluations", f"{len(table)}"),
        ("Variant and formulation", f"{listed['variant']}; {listed['formulation']}"),
        ("Seeds", listed["seed"]),
        ("Images seen by each run", joined([f"{n:,}" for n in sorted(last["images_seen"].unique())])),
        ("Training compute, all runs", f"{style.power_of_ten(own['train_flops'].sum())} FLOPs"),
        ("Training time, all runs", _duration(trained := own["train_seconds"].sum())),
        ("Scoring time, all evaluations", _scoring(whole, trained)),
        ("Trained on", listed["device"]),
        ("Metric", listed["metric"]),
        ("Held-out images drawn for each loss" if metrics == {LOSS} else "Images generated for each score", listed["samples"]),
        *([("Guidance scale; model calls per image (NFE)", f"{listed['guidance_scale']}; {listed['nfe']}")] if metrics != {LOSS} else []),
        ("Evaluation passport", listed["passport"]),
    ]


def _scoring(table: pd.DataFrame, trained: float) -> str:
    """The time of all scores and validation losses, and its share of the study's."""
    scored = table["evaluation_seconds"].sum() if "evaluation_seconds" in table else 0.0
    return f"{_duration(scored)}, {scored / (scored + trained):.0%} of training and scoring" if scored > 0 and trained > 0 else "not known"


def _branches(branches: pd.DataFrame) -> str:
    return (f"{count(len(branches), 'run')} from {count(branches['trunk'].nunique(), 'trunk')}; what they share is counted once here, and a trunk with its "
            "branches is one run where chance is estimated")


def _duration(seconds: float) -> str:
    if math.isnan(seconds):                             # the ledger has no time for this run
        return "unknown"
    for length, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
