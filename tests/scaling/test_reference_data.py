"""Published points, refitted: Epoch's and apple's optima, Gadre's held-out errors, and closed forms from papers."""

import csv
from pathlib import Path

import numpy as np
import pytest

from ditscale.scaling.fitting import fit
from ditscale.scaling.laws import Chinchilla, PowerLaw
from ditscale.scaling.starts import hoffmann_grid


def columns(path: Path, *names: str) -> list[np.ndarray]:
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [np.array([row[name] for row in rows]).astype(float if name != "dataset" else str) for name in names]


@pytest.fixture(scope="module")
def epoch(scaling_data):
    """240 points: parameters, tokens, loss, FLOPs."""
    size, compute, loss = columns(scaling_data / "epoch_chinchilla_svg_extracted.csv", "Model Size", "Training FLOP", "loss")
    keep = loss < np.sort(loss)[-5]
    size, compute, loss = size[keep], compute[keep], loss[keep]
    assert len(loss) == 240
    return size, compute / (6.0 * size), loss, compute


def huber(epoch, **options):
    size, data, loss, _ = epoch
    return fit("chinchilla", {"N": size, "D": data}, loss, loss="huber", delta=1e-3, **options)


def test_epoch_global_optimum(epoch):
    found = huber(epoch)
    law = found.law
    assert found.status.ok and found.objective == pytest.approx(0.0010182740178, rel=1e-9)
    assert pytest.approx(477.826, abs=2e-3) == law.A and pytest.approx(2143.417, abs=2e-2) == law.B
    assert pytest.approx(1.81722, abs=1e-5) == law.E
    assert law.alpha == pytest.approx(0.347310, abs=2e-6) and law.beta == pytest.approx(0.367172, abs=2e-6)
    assert found.search.agreeing == found.search.starts


def test_published_point_is_not_the_optimum(epoch):
    size, data, loss, _ = epoch
    published = Chinchilla(E=1.8169, A=482.01, B=2085.43, alpha=0.3478, beta=0.3659)
    r = np.abs(np.log(loss / published.evaluate({"N": size, "D": data})))
    objective = np.sum(np.where(r < 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)))
    assert objective > huber(epoch).objective * 1.0003


def test_mean_and_sum_have_one_optimum(epoch):
    by_sum, by_mean = huber(epoch), huber(epoch, objective="mean")
    assert by_mean.objective == pytest.approx(by_sum.objective / 240, rel=1e-12)
    assert by_mean.law == by_sum.law


@pytest.mark.slow
def test_nearly_all_of_hoffmanns_4500_starts_reach_it(epoch):
    found = huber(epoch, starts=hoffmann_grid())
    assert found.search.starts == 4500 and found.search.agreeing >= 0.9 * 4500
    assert found.objective == pytest.approx(0.0010182740178, rel=1e-9)


@pytest.mark.parametrize("options, expected", [
    ({"residuals": "y"}, (1.905092, 4.000522, 1.050948, 0.351058, 0.458742)),
    ({"residuals": "y", "solver": "varpro"}, (1.905092, 4.000522, 1.050948, 0.351058, 0.458742)),
    ({}, (1.892593, 4.014557, 1.057070, 0.352235, 0.442970))])
def test_217_points_by_least_squares(epoch, options, expected):
    """The points below 1e21 FLOPs, in millions of parameters and billions of tokens, as apple/ml-scalefit counts them."""
    size, data, loss, compute = (values[epoch[3] < 1e21] for values in epoch)
    assert len(loss) == 217
    found = fit("chinchilla", {"N": size / 1e6, "D": data / 1e9}, loss, **options)
    assert list(found.law.coefficients().values()) == pytest.approx(expected, rel=1e-4)
    if options:
        assert 2.0 * found.objective == pytest.approx(0.0624143, rel=1e-4)


def test_gadre_five_runs_predict_the_large_ones(scaling_data):
    """RedPajama: four sizes at 20 tokens a parameter and the smallest at 320; asked for 1.4B at 640 and 6.9B at 20."""
    data, size, tokens, multiple, loss = columns(scaling_data / "gadre_overtraining_loss.csv", "dataset", "params", "tokens",
                                                 "cc_mult", "loss_c4_val")
    x, mine = {"C": 6.0 * size * tokens, "M": tokens / size}, data == "rpj"
    trained = mine & (size < 5e8) & ((multiple == 1) | ((multiple == 16) & (size == size.min())))
    found = fit("overtraining", {name: v[trained] for name, v in x.items()}, loss[trained], residuals="y")
    assert found.n_points == 5
    assert list(found.law.coefficients().values()) == pytest.approx((1.84, 212.0, 367.0, 0.136), rel=4e-3)
    for params, times, error in ((1439795200, 32, 0.7103), (6889410560, 1, 0.7320)):
        asked = mine & (size == params) & (multiple == times)
        predicted = found.law.evaluate({name: v[asked] for name, v in x.items()})
        assert 100.0 * abs(predicted / loss[asked] - 1.0)[0] == pytest.approx(error, abs=1e-4)


def test_tokens_per_parameter_at_chinchillas_compute():
    """D*/N* at 5.76e23 FLOPs: Hoffmann as printed and with two more digits, Epoch as printed and at the optimum."""
    laws = [(Chinchilla(1.69, 406.4, 410.7, 0.34, 0.28), 92.6), (Chinchilla(1.69, 406.4, 410.7, 0.3392, 0.2849), 59.08),
            (Chinchilla(1.8172, 482.01, 2085.43, 0.3478, 0.3658), 18.4),
            (Chinchilla(1.81722, 477.826, 2143.417, 0.347310, 0.367172), 17.9)]
    for law, ratio in laws:
        assert law.optimal_data(5.76e23, 6.0) / law.optimal_size(5.76e23, 6.0) == pytest.approx(ratio, abs=0.06)


def test_liang_closed_forms():
    """DiT's laws of 2410.08184: N*, D* and FID (CLIP features) against C = 6 N D."""
    size, data = PowerLaw(0.0009, -0.5681), PowerLaw(186.8535, -0.4319)
    assert pytest.approx(1.009, abs=1e-3) == 6.0 * size.A * data.A
    assert size.alpha + data.alpha == pytest.approx(-1.0)
    assert size.evaluate(1.5e21) == pytest.approx(9.647e8, rel=1e-3)
    assert PowerLaw(2.2566e6, 0.234).evaluate(1.5e21) == pytest.approx(25.02, abs=5e-3)
