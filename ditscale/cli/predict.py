"""``ditscale predict``: records a prediction, or checks the recorded ones."""

import click

from ditscale.cli.group import main


@main.command()
@click.argument("study", metavar="SPEC|STUDY", type=click.Path())
@click.option("--target", metavar="MODEL", help="The model to predict, for example DiT-XL/2.  [default: the target of SPEC's ladder]")
@click.option("--images", type=click.IntRange(min=1), help="Its training length in images.  [default: that of the rungs or of SPEC's ladder]")
@click.option("--flops", type=click.FloatRange(min=0, min_open=True), help="Its training FLOPs, instead of --images.")
@click.option("--metric", help="The score's metric; loss: only the loss.  [default: the study's only metric]")
@click.option("--variant", help="Variant of the rungs and the target.  [default: baseline]")
@click.option("--rung", "rungs", multiple=True, metavar="MODEL", help="Predict only from these models; can be repeated.")
@click.option("--pin", "pins", multiple=True, metavar="NAME=X", help="Fix a coefficient to a known value: E, alpha or beta of the loss's law.")
@click.option("--where", "conditions", multiple=True, metavar="FIELD=VALUE", help="Use only evaluations with this value, as guidance_scale=1.5.")
@click.option("--landed", metavar="FOLDER", type=click.Path(file_okay=False),
              help="Predict from FOLDER/table.csv, of `ditscale collect`, and record in FOLDER; with SPEC.")
@click.option("--check", is_flag=True, help="Predict nothing: compare every recorded prediction with the target's actual result.")
def predict(study, target, images, flops, metric, variant, rungs, pins, conditions, landed, check):
    """Predict a larger run's loss and score from the smaller runs of a study, and add it to STUDY/predictions.jsonl.

    Run it before the target starts: later predictions are marked and do not count.
    """
    from pathlib import Path

    from ditscale import terminal
    from ditscale.errors import UserError
    from ditscale.objectives import BASELINE
    from ditscale.studies.predictions.make import predict as make
    from ditscale.studies.predictions.record import NAME, add, predictions
    from ditscale.studies.predictions.show import pinned_of, show_outcomes, show_prediction
    from ditscale.studies.spec.ladder import steps
    from ditscale.studies.spec.spec import load_spec
    from ditscale.studies.table.ledger import collect

    console = terminal.console()
    spec = None if Path(study).is_dir() else load_spec(study)
    folder = spec.directory if spec else Path(study)
    configs = {}
    if landed is not None:
        folder, configs = Path(landed), landed_configs(spec, study, landed)
    if check:
        show_outcomes(predictions(folder), collect(folder), console)
        return
    if target is None and spec and spec.ladder:
        last = steps(spec.ladder, spec.config, study)[-1]
        target, images = last.model, images if images or flops else last.images
    if target is None:
        raise UserError("--target is missing: the model to predict, for example --target DiT-XL/2")
    made = make(folder, target, images=images, flops=flops, metric=metric, variant=variant or BASELINE, rungs=rungs, pinned=pinned_of(pins),
                conditions=conditions, configs=configs, run_folder=spec.directory if configs else None)
    show_prediction(made, add(folder, made.record), str(folder / NAME), console)


def landed_configs(spec, source: str, landed: str) -> dict:
    """The config of each run of a study file, by run id.

    Raises:
        UserError: there is no study file, or no table in the folder.
    """
    from ditscale.errors import UserError
    from ditscale.studies.spec.spec import expand
    from ditscale.studies.table.landing import landed_file

    if spec is None:
        raise UserError(f"--landed {landed} needs the study file: `ditscale predict SPEC --landed {landed}`; {source} is a folder")
    landed_file(landed)
    return {planned.run_id: planned.config for planned in expand(spec, source)}
