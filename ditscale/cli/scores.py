"""Commands about scores: compare."""

import click

from ditscale.cli.group import main
from ditscale.errors import UserError


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--where", "conditions", multiple=True, metavar="FIELD=VALUE",
              help="Take the evaluations with this value in their passport, as guidance_scale=1.5.")
def compare(a, b, conditions):
    """Say in what two scores' passports differ, and whether the gap between them is more than noise.

    \b
    A and B are each one of
      RUN or RUN@IMAGES        a run's directory: its newest evaluation, or the one at so many images
      evals.jsonl@IMAGES       a file of evaluations
      published.csv:LINE       a row of a table of published results, by line number or model

    Evaluations that differ in the seed of the samples alone count as repetitions of one score.
    """
    from ditscale.evaluation import compare as comparing

    wanted = {}
    for condition in conditions:
        field, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where '{condition}' is not of the form FIELD=VALUE, for example guidance_scale=1.5")
        wanted[field] = value
    sides = [comparing.read_side(text, wanted) for text in (a, b)]
    click.echo("\n".join(comparing.describe(*sides, comparing.compare(*sides))))
