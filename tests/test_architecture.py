"""Who imports whom is what docs/architecture.md says; modules import each other in no circle when they are loaded."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "ditscale"
UPWARD = {("config", "ditscale.training.optimizers"), ("config", "ditscale.training.parent"), ("config", "ditscale.evaluation.guidance_options"),
          ("config", "ditscale.evaluation.metrics.names"),
          ("config", "ditscale.evaluation.metrics.table")}                     # option sections and names, without torch


@pytest.fixture(scope="module")
def modules(request):
    root = Path(request.config.rootpath)
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
            for path in (root / PACKAGE).rglob("*.py")}


@pytest.fixture(scope="module")
def rows(request):
    """The row of each part, by the table in the docs."""
    page = (Path(request.config.rootpath) / "docs" / "architecture.md").read_text()
    return {part: int(number) for number, parts in re.findall(r"^\| (\d+) \| ([^|]*) \|", page, re.M) for part in re.findall(r"`(\w+)`", parts)}


def imports(tree, modules, when_loaded=False):
    """The package's modules that one imports; not those for types alone, and ``when_loaded`` not those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == PACKAGE)
        if not (when_loaded and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            yield from imports(node, modules, when_loaded)


def part_of(module):
    return module.split(".")[1] if "." in module else PACKAGE


def test_each_part_has_a_row(modules, rows):
    assert {part_of(module) for module in modules} - {PACKAGE} == set(rows)


def test_no_part_imports_one_above_it(modules, rows):
    upward = {(part_of(module), found) for module, tree in modules.items() if module != PACKAGE for found in imports(tree, modules)
              if found != PACKAGE and rows[part_of(found)] > rows[part_of(module)]}
    assert upward == UPWARD


def test_parts_of_one_row_know_nothing_of_each_other(modules, rows):
    beside = {(part_of(module), part_of(found)) for module, tree in modules.items() if module != PACKAGE for found in imports(tree, modules)
              if found != PACKAGE and part_of(found) != part_of(module) and rows[part_of(found)] == rows[part_of(module)]}
    assert beside <= {("tensorfile", "digest"), ("device", "errors"), ("formats", "errors"), ("cli", "doctor")}


def test_no_circle_of_modules(modules):
    graph = {module: set(imports(tree, modules, when_loaded=True)) - {module} for module, tree in modules.items()}
    while free := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in free:
            del graph[module]
    assert not graph
