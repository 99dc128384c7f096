"""The report page: whole, self-contained, escaped, honest about what is missing, and the same each time."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import study_table, style
from ditscale.figures.plots import gflops, power_law
from ditscale.report import findings, page, report, sources, tables
from ditscale.report.sources import Sources

FILES = Sources(records={"digits-atto-8-s0-0badcafe": {"environment": {"lr": "0.001", "git_commit": "0123456789ab"}}})


class Tags(HTMLParser):
    """Collects every attribute, and complains about tags that do not close."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open, self.attributes = [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


@pytest.fixture(scope="module")
def table_once(study, tmp_path_factory):
    return study(tmp_path_factory.mktemp("sheets"))


@pytest.fixture(scope="module")
def written(table_once, tmp_path_factory):
    """The paths of one report, which many tests read."""
    return report.write(table_once, "digits-demo", tmp_path_factory.mktemp("out"), FILES, ["ditscale launch sweeps/digits_demo.yaml"])


def test_page_holds_everything(written, table_once):
    text = written[-1].read_text()
    assert written[-1].name == "report.html" and all(path.is_file() for path in written)
    names = {path.name for path in written}
    assert names >= {"table.csv", "power_law.json", "gflops.png", "training_compute.svg", "samples.csv"}
    for model in table_once["model"].unique():
        assert f"<td>{model}</td>" in text
    drawn = len([path for path in written if path.suffix == ".svg"])
    assert text.count("<svg viewBox") == text.count("<figcaption>") == drawn == 5 and "Not drawn" not in text
    assert "Images seen by each run</td><td>640,000" in text and "<th>Seed" not in text
    for said in ("fd_digits_cnn falls from", "95 % interval", "environment.lr", "0123456789ab", "ditscale launch sweeps/digits_demo.yaml"):
        assert said in text


def test_page_loads_nothing_from_outside(written):
    text = written[-1].read_text()
    tags = Tags(text)
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert not {"link", "iframe"} & {tag for tag, _, _ in tags.attributes}
    assert {name for tag, name, _ in tags.attributes if tag == "script"} == {"type", "id"}          # of data: no script has a source
    assert "default-src 'none'" in {name: value for tag, name, value in tags.attributes if tag == "meta"}["content"]
    loads = [value for _, name, value in tags.attributes if name in ("src", "href", "xlink:href")]
    assert loads and all(value.startswith(("#", "data:")) for value in loads)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_ids_are_unique_and_references_resolve(written):
    tags = Tags(written[-1].read_text())
    ids = [value for _, name, value in tags.attributes if name == "id"]
    references = {value[1:] for _, name, value in tags.attributes if name == "xlink:href" and value.startswith("#")}
    assert len(ids) == len(set(ids)) and references <= set(ids)


def test_figures_follow_the_theme(written):
    """Every color of a figure is a variable of the page, so that none stays behind on a dark one."""
    for svg in re.findall(r"<svg.*?</svg>", written[-1].read_text(), flags=re.DOTALL):
        assert not re.findall(r"(?:fill|stroke): ?#[0-9a-f]{6}", svg)


def test_text_of_others_is_escaped(table, tmp_path):
    bad = "<img src=x onerror=alert(1)>&\"'"
    table["device"] = bad
    table["model"] = table["model"].replace("DiT-nano/2", "DiT-<b>/2")
    table["run_id"] = table["run_id"].replace("digits-nano-2-s0-0badcafe", "</script><img src=x>&\u2028")
    files = Sources(records={bad: {"environment": {bad: bad}}})
    text = report.write(table, bad.replace("/", ""), tmp_path, files, [bad])[-1].read_text()
    assert "<img" not in text and "<b>" not in text
    data = re.search(r'<script type="application/json" id="explorer-data">(.*?)</script>', text, flags=re.DOTALL)[1]
    assert "</script><img src=x>&\u2028" in {run["id"] for run in json.loads(data)["runs"]} and "\u2028" not in data
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;&quot;&#x27;" in text and "DiT-&lt;b&gt;/2" in text


def test_study_under_way_gets_its_page(table, tmp_path):
    text = report.write(table.assign(final=False, floor=np.nan, train_seconds=np.nan), "s", tmp_path)[-1].read_text()
    assert "Study s, unfinished" in text and "none of 12 runs has finished" in text and "Not drawn" in text and 'id="explorer"' in text
    assert "DiT-nano/2" in text and "No run.json was found" in text and ">nan" not in text


def test_mixed_passports_are_refused(table, tmp_path):
    table.loc[0, "passport"] = "other"
    with pytest.raises(UserError, match="mixes passport"):
        report.write(table, "s", tmp_path)


def test_settings_come_from_the_runs():
    records = {run: {"config": {"train": {"lr": lr, "precision": "bf16"}, "seed": 0}, "environment": {"torch": "2.15.0"}}
               for run, lr in (("a", 1e-3), ("b", 2e-3))}
    assert dict(sources.settings_of(records)) == {"train.lr": "0.001, 0.002", "train.precision": "bf16", "seed": "0",
                                                  "environment.torch": "2.15.0"}


def test_main_prints_the_report_last_and_the_same_each_time(table_once, written, serve, tmp_path, capsys, monkeypatch):
    serve(table_once)
    monkeypatch.setattr(sources, "read", lambda study, table: FILES)
    monkeypatch.setattr(report, "_launch", lambda name: ["ditscale launch sweeps/digits_demo.yaml"])
    assert report.main([str(tmp_path / "digits-demo"), "--out", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    command = re.search(r"\nditscale report [^\n<]*", path.read_text())[0]
    assert path.read_text().replace(command, "") == written[-1].read_text()


def test_launch_command_of_a_study_of_ours():
    assert report._launch("digits-demo") == ["ditscale launch sweeps/digits_demo.yaml"]
    assert report._launch("no-such-study") == []


def test_findings_are_no_stronger_than_the_data(study):
    def said(table: pd.DataFrame) -> tuple[str, str]:
        final = study_table.finished(study_table.scored(table)[0])
        law = power_law.fit_law(table, "train_flops")
        found = findings.sentences(final, law, gflops.correlation(table), floor=1.6)
        return findings.title(final, law), " ".join(found)

    title, text = said(study())
    assert title.startswith("fd_digits_cnn falls from") and "Twice the training compute C lowers the score by" in text
    assert "One seed per model" in text and "by profile, 12 runs, 10 degrees of freedom" in text
    title, text = said(study(alpha=0.0, noise=0.2))
    assert title == "12 runs show no trend of fd_digits_cnn with compute" and "the interval contains zero" in text
    title, text = said(study(alpha=-0.3))
    assert title.startswith("fd_digits_cnn rises") and "raises the score by" in text
    title, text = said(study().query("model == 'DiT-nano/2'"))
    assert title.startswith("fd_digits_cnn of DiT-nano/2 is") and "No power law" in text and "No correlation" in text
    assert "One seed" not in said(study(seeds=(0, 1)))[1]


def test_powers_are_set_as_powers():
    assert page.prose("score ∝ C^−α <") == "score ∝ C<sup>−α</sup> &lt;"
    assert style.power_of_ten(1.0173e14) == "1.02 × 10¹⁴" and style.short_count(1_234_567) == "1.23 M"
    assert style.short_count(331_000, 2) == "330 k"
    assert [style.score_text(score) for score in (11.0, 154.2, 6.594)] == ["11.0", "154", "6.59"]


def test_runs_that_differ_in_the_seed_share_a_row(study):
    rows = study(seeds=(0, 1, 2))
    usable = rows.assign(recipe=rows["model"])
    table = tables.runs(usable)
    last = usable[usable["final"] & (usable["model"] == "DiT-nano/2")]["score"]
    assert table.count("<tr") == 1 + 12 and "Seed" not in table                # all have the same three
    assert f"{style.score_text(last.mean())} ({style.score_text(last.min())} to {style.score_text(last.max())})" in table
    assert tables.runs(rows).count("<tr") == 1 + 36                            # recipes that are not known
    some = usable[(usable["seed"] == 0) | (usable["model"] == "DiT-nano/2")]
    assert "0, 1, 2 (x 3)" in tables.runs(some) and tables.runs(some).count("<tr") == 1 + 12
