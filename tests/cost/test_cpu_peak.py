"""The measured speed of the CPU is kept for an hour."""

import json
import time

import pytest

from ditscale.cost import cpu_peak


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The number of measurements; each gives 1e9 more FLOP/s than the last."""
    found = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_peak, "_measured_flops", lambda: found.append(1) or 1e9 * len(found))
    return found


def test_it_is_measured_once_per_processor_cores_and_threads(measured, monkeypatch):
    assert cpu_peak.cpu_flops("A CPU", 2) == cpu_peak.cpu_flops("A CPU", 2) == 1e9 and len(measured) == 1
    assert cpu_peak.cpu_flops("A CPU", 4) == 2e9 and cpu_peak.cpu_flops("Another", 2) == 3e9
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert cpu_peak.cpu_flops("A CPU", 2) == 4e9
    monkeypatch.undo()


def test_an_old_value_is_measured_again(measured, monkeypatch):
    cpu_peak.cpu_flops("A CPU", 2)
    later = time.time() + cpu_peak.KEPT_SECONDS + 1
    monkeypatch.setattr(cpu_peak.time, "time", lambda: later)
    assert cpu_peak.cpu_flops("A CPU", 2) == 2e9 == cpu_peak.cpu_flops("A CPU", 2)


def test_a_measurement_on_a_busy_machine_does_not_lower_it(measured, monkeypatch):
    monkeypatch.setattr(cpu_peak, "_measured_flops", lambda: 1e12)
    cpu_peak.cpu_flops("A CPU", 2)
    later = time.time() + cpu_peak.KEPT_SECONDS + 1
    monkeypatch.setattr(cpu_peak.time, "time", lambda: later)
    monkeypatch.setattr(cpu_peak, "_measured_flops", lambda: 3e11)
    assert cpu_peak.cpu_flops("A CPU", 2) == 1e12


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "VALUE null", "VALUE [0, 1]", "VALUE [1e9]", 'VALUE ["1", 2]', "VALUE [NaN, NOW]"])
def test_a_damaged_file_is_written_anew(measured, tmp_path, content):
    cpu_peak.cpu_flops("A CPU", 2)
    path = tmp_path / "cache/ditscale/cpu_peak.json"
    key = next(iter(json.loads(path.read_text())))
    path.write_text(f"{{{json.dumps(key)}: {content[6:].replace('NOW', str(time.time()))}}}" if content.startswith("VALUE") else content)
    assert cpu_peak.cpu_flops("A CPU", 2) == 2e9 == cpu_peak.cpu_flops("A CPU", 2)


def test_a_folder_that_cannot_be_written(measured, tmp_path):
    (tmp_path / "cache").write_text("")
    assert cpu_peak.cpu_flops("A CPU", 2) == 1e9 and cpu_peak.cpu_flops("A CPU", 2) == 2e9


def test_the_measurement_itself():
    assert 1e8 < cpu_peak._measured_flops(size=128, repeats=2) < 1e14
