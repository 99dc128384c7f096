"""The report in headless Chromium: it loads without a complaint, its controls do what they say, and without scripts it reads."""

import importlib.util
import sys
from pathlib import Path

import pytest

from ditscale.report import report
from ditscale.studies.table.study import Study

HERE = Path(__file__).parent
PLOT = "#explorer svg.plot"


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


browser_module = load("report_browser", HERE / "browser.py")
pytestmark = pytest.mark.skipif(not browser_module.BINARY, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def path(repository, tmp_path_factory):
    """The report of three models by two variants and two seeds, made once from a study's files."""
    folder = tmp_path_factory.mktemp("browser") / "made"
    made = load("made_study", repository / "benchmarks" / "made_study.py")
    made.write_study(folder, ("DiT-atto/2", "DiT-femto/2", "DiT-pico/2"), ("baseline", "masked"), (0, 1), evaluations=4)
    assert report.main([str(folder), "--price", "2.5"]) == 0
    return folder / "analysis" / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One Chromium for all tests."""
    started = browser_module.Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def page(chromium, path):
    chromium.errors.clear()
    chromium.send("Emulation.setScriptExecutionDisabled", value=False)
    chromium.send("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    chromium.open(path)
    return chromium


def curves(page) -> list[str]:
    return page.run(f"[...document.querySelectorAll('{PLOT} g.run')].map((group) => group.dataset.run)")


def first_x(page) -> float:
    return page.run(f"document.querySelector('{PLOT} g.run path').getBBox().x")


def x_label(page) -> str:
    return page.run("document.querySelector('#explorer .x-label').textContent")


def test_it_loads_without_a_complaint(page):
    assert page.errors == [] and len(curves(page)) == 12
    assert page.run("document.querySelector('.verdicts').getBoundingClientRect().bottom < innerHeight")     # in the first screen
    assert "masked over baseline" in page.run("document.querySelector('.verdicts').innerText")
    assert page.run("document.getElementById('static-figure').open") is False


def test_a_variant_can_be_hidden_and_shown(page):
    page.click("#explorer input[data-kind=variant][value=masked]")
    assert len(curves(page)) == 6 and not any("masked" in run for run in curves(page))
    page.click("#explorer input[data-kind=seed][value='1']")
    assert len(curves(page)) == 3
    page.click("#explorer input[data-kind=variant][value=masked]")
    assert len(curves(page)) == 6 and page.errors == []


def choose(page, cost: str) -> None:
    page.run("(() => { const select = document.querySelector('#explorer select');"
             f" select.value = '{cost}'; select.dispatchEvent(new Event('change')); }})()")


def test_the_axis_of_cost_changes(page):
    before = first_x(page)
    assert x_label(page) == "Training compute (FLOPs)"
    choose(page, "hours")
    assert "accelerator-hours" in x_label(page) and first_x(page) != pytest.approx(before, abs=0.01)
    price = "document.querySelector('#explorer input[name=price]')"
    assert page.run(f"{price}.offsetParent === null")
    choose(page, "money")
    assert page.run(f"{price}.value") == "2.5" and page.run(f"{price}.offsetParent !== null")
    hours, log = first_x(page), "#explorer input[name=logX]"
    page.click(log)
    assert first_x(page) != pytest.approx(hours, abs=0.01)
    page.run(f"(() => {{ {price}.value = ''; {price}.dispatchEvent(new Event('input')); }})()")
    assert curves(page) == [] and "Give the price" in page.run(f"document.querySelector('{PLOT}').textContent")
    assert page.errors == []


def test_pointing_at_a_run_names_it(page):
    page.run(f"document.querySelector('{PLOT}').scrollIntoView({{block: 'center'}})")
    x, y, run = page.run(f"(() => {{ const group = document.querySelector('{PLOT} g.run'); const b = group.lastChild.getBoundingClientRect();"
                         " return [b.x + b.width / 2, b.y + b.height / 2, group.dataset.run]; })()")
    page.point(x, y)
    tip = "document.querySelector('#explorer .tip')"
    told = page.run(f"{tip}.innerText")
    assert run in told and "FLOPs" in told and "accelerator-hours" in told and "seed" in told
    page.point(5, 5)
    assert page.run(f"{tip}.hidden") is True
    page.run(f"document.querySelector('{PLOT}').focus()")
    for key in ("ArrowRight", "ArrowDown"):
        page.send("Input.dispatchKeyEvent", type="keyDown", key=key)
    assert page.run(f"{tip}.hidden") is False and curves(page)[1] in page.run(f"{tip}.innerText")


def test_a_click_on_a_header_sorts(page):
    """By compute, which no text order gives, both ways; the header says so."""
    of_runs = "t.textContent.includes('Training FLOPs') && t.textContent.includes('Times the floor')"
    table = f"[...document.querySelectorAll('table.sortable')].find((t) => {of_runs})"
    page.run(f"{table}.id = 'runs'")
    column = page.run("[...document.querySelectorAll('#runs th')].findIndex((h) => h.textContent === 'Training FLOPs') + 1")
    values = f"[...document.querySelectorAll('#runs td:nth-child({column})')].map((cell) => Number(cell.dataset.value))"
    for way, order in (("ascending", sorted), ("descending", lambda found: sorted(found, reverse=True))):
        page.click(f"#runs th:nth-child({column}) button")
        found = page.run(values)
        assert len(set(found)) > 3 and found == order(found)
        assert page.run(f"document.querySelector('#runs th:nth-child({column})').ariaSort") == way


def test_without_scripts_the_static_figure_stands_there(page, path):
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(path)
    shown = page.send("DOM.getDocument", depth=1)["root"]["nodeId"]
    figure = page.send("DOM.querySelector", nodeId=shown, selector="#static-figure svg")["nodeId"]
    box = page.send("DOM.getBoxModel", nodeId=figure)["model"]
    assert box["width"] > 300 and box["height"] > 200
    assert page.send("DOM.querySelector", nodeId=shown, selector="th button")["nodeId"] == 0
    body = page.send("DOM.querySelector", nodeId=shown, selector="main")["nodeId"]
    text = page.send("DOM.getOuterHTML", nodeId=body)["outerHTML"]
    assert "Every run at its end" in text and "INCONCLUSIVE" in text and page.errors == []


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_does_not_scroll_sideways(page, path, width):
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=False)
    page.open(path)
    page.run("document.querySelectorAll('details').forEach((folded) => { folded.open = true; })")
    assert page.run("document.scrollingElement.scrollWidth <= innerWidth"), page.run(
        "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth"
        " && !e.closest('.scroll, pre')).map((e) => e.outerHTML.slice(0, 120)).slice(0, 5).join('\\n')")
    assert page.run(f"document.querySelector('{PLOT}').getBoundingClientRect().right <= innerWidth") and page.errors == []


def test_on_paper_the_static_figure_stands_there(page):
    page.send("Emulation.setEmulatedMedia", media="print")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("getComputedStyle(document.getElementById('explorer')).display") == "none"
    assert page.run("document.querySelector('#static-figure svg').getBoundingClientRect().width") > 300
    page.send("Emulation.setEmulatedMedia", media="")


def on_frontier(page) -> set[str]:
    titles = page.run("[...document.querySelectorAll('#deployment circle.on title')].map((title) => title.textContent)")
    return {title.split(": ")[0] for title in titles}


def test_the_slider_moves_the_frontier_as_the_table_has_it(page, path):
    """The script's frontier is that of ``Study``, at no image, at the most, and between; the table without scripts agrees."""
    study = Study.load(path.parent.parent)
    page.run("document.querySelector('#deployment').scrollIntoView()")
    counts = []
    for step in (0, 90, 200):
        page.run(f"(() => {{ const slider = document.querySelector('#deployment input'); slider.value = {step}; "
                 "slider.dispatchEvent(new Event('input')); })()")
        images = int(page.run("document.querySelector('#deployment output').textContent").split(" ")[0].replace(",", ""))
        found = study.frontier(images_to_make=images)
        assert on_frontier(page) == {cell.name for cell in found.points}
        counts.append(frozenset(on_frontier(page)))
        summary = page.run("document.querySelector('#deployment summary').textContent")
        assert summary == f"On the frontier: {len(found.points)} of {len(found.cells)} cells"
    assert images > 1e4 and counts[0] != counts[2]
    first = page.run("[...document.querySelectorAll('table')].find((t) => t.textContent.includes('Images made')).tBodies[0].rows[0].innerText")
    assert first.split("\t")[:2] == ["0", f"{len(counts[0])} of {len(found.cells)}"] and page.errors == []
