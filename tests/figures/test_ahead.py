"""Figures drawn side by side are those drawn in turn, to the byte, and what cannot be drawn says why."""

import errno
import os

import pytest

from ditscale.errors import UserError
from ditscale.report import ahead


@pytest.fixture(params=[1, 2])
def cores(request, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(request.param)))
    monkeypatch.setattr("threading.active_count", lambda: 1)                   # of pytest-xdist's workers
    return request.param


def refuse():
    raise UserError("no run has finished")


def test_results_come_by_name_and_a_refusal_as_itself(cores):
    with ahead.drawn({"a": lambda: ("a", os.getpid()), "none": refuse, "b": lambda: ("b", os.getpid())}) as drawn:
        with pytest.raises(UserError, match="no run has finished"):
            drawn("none")
        (a, there), (b, _) = drawn("a"), drawn("b")
    assert (a, b) == ("a", "b") and (cores == 2 or there == os.getpid())


def test_where_no_process_can_be_made_they_are_drawn_here(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr("threading.active_count", lambda: 1)

    def refuses():
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    monkeypatch.setattr(os, "fork", refuses)
    with ahead.drawn({"a": os.getpid, "b": os.getpid}) as drawn:
        assert drawn("b") == drawn("a") == os.getpid()


def test_another_error_goes_its_way(cores):
    with pytest.raises(ZeroDivisionError), ahead.drawn({"a": lambda: 1 / 0, "b": lambda: 1}) as drawn:
        drawn("a")


def test_a_report_has_the_same_bytes(benchmark_module, tmp_path, monkeypatch):
    from ditscale.report.report import main

    monkeypatch.setattr("threading.active_count", lambda: 1)
    benchmark_module("made_study").write_study(tmp_path / "study", ("DiT-pico/2", "DiT-pico/4", "DiT-nano/4"), evaluations=3)
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        main([str(tmp_path / "study")])
        found.append({path.name: path.read_bytes() for path in (tmp_path / "study" / "analysis").iterdir()})
    assert found[0] == found[1] and "report.html" in found[0]
