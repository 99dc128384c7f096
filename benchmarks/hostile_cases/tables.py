"""CSVs of scores with a column missing or a field changed, for the figure scripts."""

from pathlib import Path

import pandas as pd

from hostile_cases import Case

SCRIPTS = (
    "training_compute",
    "scaling_law",
    "power_law",
    "frontier",
    "cost_quality",
    "variants",
    "isoflop",
    "metrics",
    "table",
    "throughput",
    "training_curves",
    "bubbles",
    "gflops",
    "sampling_compute",
    "sweeps",
    "block_designs",
)
DRAWN = 3  # scripts that each changed table is tried on, in turn
FIELDS = (
    "train_flops",
    "score",
    "images_seen",
    "macs",
    "seed",
    "model",
    "variant",
    "metric",
    "passport",
    "samples",
    "floor",
    "final",
    "parameters",
    "nfe",
    "guidance_scale",
)
WRONG = {
    "score": ("x", "-1", "inf"),
    "train_flops": ("", "x", "0", "-1", "nan", "inf"),
    "images_seen": ("", "x", "-1"),
    "macs": ("x", "0", "-1"),
}


def cases(given: Path):
    from made_study import write_study

    from ditscale.studies.table.ledger import collect

    write_study(
        given / "made",
        models=("DiT-atto/4", "DiT-femto/4", "DiT-pico/4"),
        variants=("baseline", "masked"),
        seeds=(0, 1),
        evaluations=3,
    )
    table, turn = collect(given / "made").astype(object), 0

    def case(name, changed, script, right="either"):
        def make(folder):
            (folder / "t.csv").write_text(changed if isinstance(changed, str) else changed.to_csv(index=False))
            return [f"analysis/{script}.py", "t.csv", "--out", "out", "--format", "png"]

        return Case(f"tables/{script} {name}", make, right, may_leave=lambda name: name.startswith("out/"))

    for script in SCRIPTS:
        for name, text in {
            "empty": "",
            "header alone": table.head(0).to_csv(index=False),
            "other table": "a,b\n1,2\n",
            "text": "hello",
            "zeros": "\0\0\0",
            "quote": '"a',
        }.items():
            yield case(name, text, script, "refused")
        yield case("one row", table.head(1), script)
        yield case("one run", table[table["run_id"] == table["run_id"].iloc[0]], script)
        yield case("twice", pd.concat([table, table]), script)
    for column in table.columns:
        for script in SCRIPTS[turn % len(SCRIPTS) :: len(SCRIPTS) // DRAWN]:
            yield case(f"without {column}", table.drop(columns=column), script)
        turn += 1
    for column in FIELDS:
        for value in ("", "x", "nan", "inf", "-1", "0", "1e400", "True"):
            changed = table.copy()
            changed.loc[2, column] = value
            for script in SCRIPTS[turn % len(SCRIPTS) :: len(SCRIPTS) // DRAWN]:
                yield case(f"{column}={value}", changed, script, "refused" if value == "x" and column in WRONG else "either")
            turn += 1
