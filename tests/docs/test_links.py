"""Links, anchors, pictures and file names in the documentation exist, and the index leads to every page."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest
from pages import PAGES, ROOT, blocks, inline, prose

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LANGUAGES = {"bash", "yaml", "python", "text", "csv"}
# Names of files that a checkout has; those of a user's runs and data are examples.
CHECKED_IN = re.compile(r"^(ditscale|tests|benchmarks|analysis|sweeps|ds_configs|docs|\.ci|\.github)/[\w./-]+$")


def slugs(page) -> set[str]:
    """The anchors that GitHub and mkdocs give a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name(page) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in slugs(target), f"{name(page)}: {link}: no such heading; there are {sorted(slugs(target))}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_exist(page):
    for word in inline(page):
        if CHECKED_IN.match(word) and "published/" not in word:
            assert (ROOT / word).exists(), f"{name(page)}: `{word}`"


def test_the_index_leads_to_every_page():
    linked = {link.partition("#")[0] for link in LINK.findall((ROOT / "docs" / "index.md").read_text())}
    assert {page.name for page in PAGES if page.parent == ROOT / "docs" and page.name != "index.md"} <= linked


def test_every_block_says_its_language():
    assert {block.language for block in blocks()} <= LANGUAGES, [str(block) for block in blocks() if block.language not in LANGUAGES]


def test_pictures_are_small_and_used():
    used = {(page.parent / link).resolve() for page in PAGES for link in LINK.findall(page.read_text())}
    pictures = list((ROOT / "docs").rglob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture in used, f"{name(picture)} is on no page"
        assert picture.stat().st_size < 60_000, f"{name(picture)} has {picture.stat().st_size:,} bytes"


def test_the_site_has_every_page():
    """The navigation of mkdocs.yml, without mkdocs."""
    listed = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2])
    assert sorted(listed) == sorted(page.name for page in PAGES if page.parent == ROOT / "docs")


@pytest.mark.parametrize("target", re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
def test_the_api_page_names_what_exists(target):
    try:
        found = importlib.import_module(target)
    except ModuleNotFoundError:
        module, _, name = target.rpartition(".")
        found = getattr(importlib.import_module(module), name)
    assert inspect.getdoc(found), f"{target} has no docstring"


def test_the_site_builds(tmp_path):
    """Strictly, where mkdocs is installed (`pip install 'ditscale[docs]'`); links and names are tested above without it."""
    pytest.importorskip("mkdocstrings", reason="mkdocs and mkdocstrings are not installed: pip install 'ditscale[docs]'")
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "Fit" in (tmp_path / "api" / "index.html").read_text()
