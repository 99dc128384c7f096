"""Means by name, non-finite values, and a warning that is told once and kept."""

import pytest
import torch

from ditscale.objectives.objective import Terms
from ditscale.rundir import DONE, read_lines
from ditscale.training.guard import Found
from ditscale.training.telemetry import Telemetry


def terms(losses, watched={}):
    return Terms({name: torch.tensor(value) for name, value in losses.items()},
                 {name: torch.tensor(value) for name, value in watched.items()})


@pytest.fixture
def telemetry(make_run, world):
    """Telemetry of a fresh run, with a warning about each entropy below 0.1."""
    def warning(watched):
        return f"entropy {watched['entropy']:.2f}" if watched.get("entropy", 1.0) < 0.1 else ""
    config, run = make_run()
    return run, lambda: Telemetry(run, world, config, warning)


def flush(telemetry, images_seen, *micro_steps, images=64):
    for step in micro_steps:
        telemetry.add(step)
    telemetry.images += images
    telemetry.flush(images_seen, lr=1e-3, found=Found(grad_norm=1.0, grad_norm_max=2.0))


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


def test_what_is_not_finite_is_left_out_of_the_means(telemetry):
    run, open_telemetry = telemetry
    here = open_telemetry()
    flush(here, 64, terms({"generative": 1.0}, {"ratio": float("inf")}), terms({"generative": float("nan")}, {"ratio": 2.0}))
    flush(here, 128, terms({"generative": float("nan")}))
    first, second = read_lines(run.metrics)
    assert first["loss/generative"] == 1.0 and first["watch/ratio"] == 2.0
    assert "loss/generative" not in second


def test_skipped_steps_and_hours_go_on_where_a_run_is_resumed(telemetry):
    run, open_telemetry = telemetry
    for images_seen in (64, 128):
        here = open_telemetry()
        here.images, here.since = 64, here.since - 36
        here.add(terms({"generative": 1.0}))
        here.flush(images_seen, lr=1e-3, found=Found(float("nan"), 2.0, skipped_steps=2, parameter="x", first_images=0))
    first, second = read_lines(run.metrics)
    assert (first["skipped_steps"], second["skipped_steps"]) == (2, 4) and "grad_norm" not in second
    assert (first["accelerator_hours"], second["accelerator_hours"]) == pytest.approx((0.01, 0.02), rel=0.01)


def test_a_spike_is_noted(telemetry):
    run, open_telemetry = telemetry
    here = open_telemetry()
    for step in range(12):
        flush(here, 64 * (step + 1), terms({"generative": 3.0 if step == 10 else 1.0}))
    assert ["spike" in line for line in read_lines(run.metrics)] == [False] * 10 + [True, False]


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


def test_the_few_images_before_a_checkpoint_are_no_spike(telemetry):
    """Nor do they count among the last values, also where the run is taken up again."""
    run, open_telemetry = telemetry
    here = open_telemetry()
    for step in range(10):
        flush(here, 64 * (step + 1), terms({"generative": 1.0}))
    for step in range(10):
        flush(here, 640 + 2 * (step + 1), terms({"generative": 3.0}), images=2)
    flush(open_telemetry(), 724, terms({"generative": 3.0}))
    assert ["spike" in line for line in read_lines(run.metrics)] == [False] * 20 + [True]
