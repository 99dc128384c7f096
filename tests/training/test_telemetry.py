"""Means by name, non-finite values, and a warning that is told once and kept."""

import pytest
import torch

from ditscale.errors import TrainingFailed
from ditscale.objectives.objective import Terms
from ditscale.rundir import DONE, read_lines
from ditscale.training.telemetry import Telemetry


def terms(losses, watched={}):
    return Terms({name: torch.tensor(value) for name, value in losses.items()},
                 {name: torch.tensor(value) for name, value in watched.items()})


@pytest.fixture
def telemetry(make_run, world):
    """Telemetry of a fresh run, with a warning about each entropy below 0.1."""
    def warning(watched):
        return f"entropy {watched['entropy']:.2f}" if watched.get("entropy", 1.0) < 0.1 else ""
    _, run = make_run()
    return run, lambda: Telemetry(run, world, warning)


def flush(telemetry, images_seen, *micro_steps):
    for step in micro_steps:
        telemetry.add(step)
    telemetry.flush(images_seen, lr=1e-3, grad_norm=None)


def test_a_term_is_averaged_over_the_micro_steps_that_have_it(telemetry, capsys):
    run, open_telemetry = telemetry
    here = open_telemetry()
    flush(here, 64, terms({"generative": 1.0, "reconstruction": 0.5}, {"entropy": 0.4}), terms({"generative": 3.0}),
          terms({"generative": 2.0, "reconstruction": 1.0}, {"entropy": 0.8}))
    flush(here, 128, terms({"generative": 5.0}))
    first, second = read_lines(run.metrics)
    assert (first["loss/generative"], first["loss/reconstruction"], first["watch/entropy"]) == pytest.approx((2.0, 0.75, 0.6))
    assert second["loss/generative"] == 5.0 and "loss/reconstruction" not in second and "watch/entropy" not in second
    assert "loss 2.7500" in capsys.readouterr().out


def test_only_losses_must_be_finite(telemetry):
    run, open_telemetry = telemetry
    here = open_telemetry()
    flush(here, 64, terms({"generative": 1.0}, {"ratio": float("inf")}))
    assert "watch/ratio" not in read_lines(run.metrics)[0]
    with pytest.raises(TrainingFailed, match="not finite at 128 images: {'generative': nan}"):
        flush(here, 128, terms({"generative": float("nan")}))


def test_a_warning_is_told_once_and_outlives_the_run(telemetry, capsys):
    run, open_telemetry = telemetry
    here = open_telemetry()
    flush(here, 64, terms({"generative": 1.0}, {"entropy": 0.5}))
    assert run.status()["warning"] == ""
    flush(here, 128, terms({"generative": 1.0}, {"entropy": 0.05}))
    flush(open_telemetry(), 192, terms({"generative": 1.0}, {"entropy": 0.02}))   # the run was resumed in between
    assert [line.get("warning") for line in read_lines(run.metrics)] == [None, "entropy 0.05", None]
    assert capsys.readouterr().out.count("warning: entropy 0.05\n") == 1
    assert run.status()["warning"] == "entropy 0.05"
    run.set_status(DONE, images_seen=640)
    assert run.status()["warning"] == "entropy 0.05"


def test_a_run_begun_anew_forgets_the_warning_of_the_lines_it_dropped(telemetry):
    run, open_telemetry = telemetry
    flush(open_telemetry(), 64, terms({"generative": 1.0}, {"entropy": 0.05}))
    run.metrics.write_text("")
    flush(open_telemetry(), 64, terms({"generative": 1.0}, {"entropy": 0.5}))
    assert run.status()["warning"] == ""
