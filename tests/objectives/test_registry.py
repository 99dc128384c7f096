"""The registries of variants and of block designs: nothing beside them knows a name, and what they say is so."""

import ast
import itertools
import subprocess
import sys

import pytest

from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS
from ditscale.objectives import BASELINE, VARIANTS

PAPERS = {"figures/kit/published.py": {"masked", "mdt"},                       # papers' tables and families
          "evaluation/export.py": {"adaln_zero"},                              # the only design that diffusers has
          "models/peers/__init__.py": {"mdt"}, "models/peers/recognize.py": {"mdt"},  # the peers' own names
          "models/peers/maskdit.py": {"masked"}, "models/peers/mdt.py": {"mdt"},  # configs that reproduce a released model
          # a key of a multiplier's card, whatever it compares
          "scaling/cards.py": {"baseline"}, "scaling/multiplier.py": {"baseline"}, "scaling/speedup.py": {"baseline"}}


def syntax(repository):
    """(path within the package, tree) of each module outside the two registries."""
    package = repository / "ditscale"
    for path in sorted(package.rglob("*.py")):
        if not any(path.is_relative_to(package / home) for home in ("objectives", "models/blocks")):
            yield path.relative_to(package).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_no_name_of_a_variant_or_design_outside_its_registry(repository):
    names = {*VARIANTS, *DESIGNS}
    found = {place: {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in names}
             for place, tree in syntax(repository)}
    assert {place: own for place, own in found.items() if own} == PAPERS


def test_nothing_asks_a_config_which_variant_it_is(repository):
    """``objective.name`` is printed and looked up, never compared."""
    asked = [f"{place}:{node.lineno}" for place, tree in syntax(repository) for node in ast.walk(tree) if isinstance(node, ast.Compare)
             for side in (node.left, *node.comparators) if ast.unparse(side).endswith("objective.name")]
    assert not asked


def test_registries_are_keyed_by_the_names_that_configs_give():
    for name, kind in VARIANTS.items():
        assert kind(name=name).name == name
    assert next(iter(VARIANTS)) == BASELINE and next(iter(DESIGNS)) == DEFAULT_DESIGN
    assert all(name == design.name for name, design in DESIGNS.items())


@pytest.mark.parametrize("kinds", [VARIANTS, DESIGNS], ids=["variants", "designs"])
def test_each_has_a_color_of_its_own_on_both_papers(kinds):
    for side in ("color", "dark_color"):
        assert len({getattr(kind, side) for kind in kinds.values()}) == len(kinds)


def test_costs_are_asked_without_torch(repository):
    code = ("import sys, ditscale.config, ditscale.cost.table, ditscale.cost.shares, ditscale.cost.throughput\n"
            "from ditscale.objectives import VARIANTS\n"
            "for name in VARIANTS: ditscale.cost.table.model_rows(resolution=8, channels=1, classes=10, variant=name)\n"
            "sys.exit('torch' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


def test_the_table_in_the_docs_is_the_registrys(repository):
    lines = (repository / "docs" / "variants.md").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(f"`objective: {{name: {' | '.join(VARIANTS)}}}`") for line in lines)
    start = lines.index(next(line for line in lines if line.startswith("|")))
    drawn = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    table = {row[0]: row[1:] for row in ([cell.strip() for cell in line[1:-1].split("|")] for line in drawn) if row[0] != "---"}
    columns = [kind.column for kind in VARIANTS.values()]
    rows = dict.fromkeys(name for column in columns for name in column)
    assert table == {name: [column.get(name, "") for column in columns] for name in rows}
