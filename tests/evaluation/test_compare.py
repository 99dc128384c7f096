"""Two scores side by side: the fields that differ are named, and a verdict needs repetitions."""

import json

import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.evaluation.compare import compare, describe, read_side
from ditscale.evaluation.passport import SEED, Passport, digest
from ditscale.rundir import RunDir, append_line

PASSPORT = {"metric": "fid", "extractor_sha256": "e", "reference_sha256": "r", "reference_samples": 50000, "samples": 50000,
            "resize": "TF1", "precision": "fp32", "labels": "random", "seed": 0, "formulation": "flow", "sampler": "heun",
            "sampling_steps": 10, "nfe": 19, "guidance_scale": 1.5}


@pytest.fixture
def evals(tmp_path):
    """Writes a file of evaluations: scores by sample seed, at 1,000 images, with other passport fields."""
    def write(name, *scores, images=1000, error=None, **fields):
        with open(tmp_path / name, "a") as file:
            for seed, score in enumerate(scores):
                line = {"images_seen": images, "metric": fields.get("metric", "fid"), "score": score, "passport": {**PASSPORT, "seed": seed, **fields}}
                file.write(json.dumps({**line, **({"error": error} if error else {})}) + "\n")
        return str(tmp_path / name)
    return write


def verdict(a, b):
    a, b = read_side(a), read_side(b)
    return "\n".join(describe(a, b, compare(a, b)))


def test_repetitions_decide(evals):
    text = verdict(evals("a", 10.0, 10.2, 9.9, 10.1), evals("b", 8.0, 8.1, 8.2))
    assert "the passports agree" in text and "REAL" in text and "INCONCLUSIVE" not in text and "mean of 4 sets" in text
    assert "INCONCLUSIVE (the interval contains zero)" in verdict(evals("c", 10.0, 11.0, 9.0), evals("d", 10.1, 9.4, 10.4))


def test_one_score_each_is_inconclusive_but_for_its_error(evals):
    text = verdict(evals("a", 10.0), evals("b", 5.0))
    assert "INCONCLUSIVE (fewer than 3 sets" in text and "above 3.6%" in text
    assert "within 3.6%" in verdict(evals("a2", 10.0), evals("b2", 10.2))
    assert "-20.0% against A: REAL" in verdict(evals("a3", 10.0, error=0.1), evals("b3", 8.0, error=0.1))
    assert "INCONCLUSIVE (bootstrap" in verdict(evals("a4", 10.0, error=1.0), evals("b4", 9.8, error=1.0))


def test_losses_are_not_judged_by_the_noise_of_fid(evals):
    text = verdict(evals("a", 0.20, metric="loss"), evals("b", 0.19, metric="loss"))
    assert "INCONCLUSIVE" in text and "spread of the loss over training seeds is not known" in text and "FID" not in text


def test_what_differs_is_named(evals):
    text = verdict(evals("a", 10.0), evals("b", 8.0, guidance_scale=4.0, nfe=None))
    assert "differs: guidance_scale: 1.5 in A, 4.0 in B" in text and "stated on one side only: nfe" in text
    text = verdict(evals("c", 10.0), evals("d", 8.0, samples=5000))
    assert "NOT COMPARABLE" in text and "(samples)" in text and "REAL" not in text
    codes = {name: CliRunner().invoke(main, ["compare", evals("c"), evals(name)]).exit_code for name in ("a", "d")}
    assert codes == {"a": 0, "d": 1}


def test_checkpoints_and_kinds_are_chosen(evals):
    path = evals("a", 10.0)
    evals("a", 7.0, 7.2, images=2000)
    assert read_side(path).scores == [7.0, 7.2] and read_side(path + "@1000").scores == [10.0]
    evals("a", 6.0, images=2000, guidance_scale=4.0)
    with pytest.raises(UserError, match="2 kinds of evaluation at 2000 images, with guidance_scale 1.5 or 4.0"):
        read_side(path)
    assert read_side(path, {"guidance_scale": "4.0"}).scores == [6.0]
    evals("a", 5.5, images=2000, guidance_scale=4.0)                           # the same again replaces the line before
    assert read_side(path, {"guidance_scale": "4.0"}).scores == [5.5]
    for text, words in ((path + "@5", "no evaluation at 5 images; there are 1000, 2000"), ("/nowhere", "no evaluations found")):
        with pytest.raises(UserError, match=words):
            read_side(text)
    with pytest.raises(UserError, match="did you mean 'guidance_scale'"):
        read_side(path, {"guidance_scal": "4.0"})


def test_published_rows(evals, tmp_path):
    table = tmp_path / "published.csv"
    table.write_text("source,model,cfg_scale,nfe,fid\npaper,DiT-XL/2,none,250,9.62\npaper,DiT-XL/2-G,1.5,250,2.27\npaper,X,,,\n")
    side = read_side(f"{table}:DiT-XL/2-G")
    assert side.scores == [2.27] and side.passport == {"metric": "fid", "nfe": 250, "guidance_scale": 1.5}
    assert read_side(f"{table}:2").passport["guidance_scale"] == 1.0
    text = verdict(evals("a", 2.3), f"{table}:3")
    assert "differs: nfe: 19 in A, 250 in B" in text and "stated on one side only: extractor_sha256" in text
    for which, words in (("4", "has no FID"), ("9", "lines are 2 to 4"), ("DiT", "lines are 2 to 4")):
        with pytest.raises(UserError, match=words):
            read_side(f"{table}:{which}")


def test_on_the_command_line(evals):
    a, b = evals("a", 10.0, 10.1, 10.2), evals("b", 9.0, 9.1, 9.05)
    done = CliRunner().invoke(main, ["compare", a, b])
    assert done.exit_code == 0 and "REAL" in done.output
    done = CliRunner().invoke(main, ["compare", a, b, "--where", "seed"])
    assert done.exit_code == 2 and "FIELD=VALUE" in done.output
    assert CliRunner().invoke(main, ["compare", a, "nowhere"]).exit_code == 2


def test_seeds_are_repetitions():
    a, b = Passport(**PASSPORT), Passport(**{**PASSPORT, "seed": 3})
    assert a.digest() != b.digest()
    assert digest(vars(a), without=(SEED,)) == digest(vars(b), without=(SEED,)) != digest({**vars(a), "nfe": 5}, without=(SEED,))


@pytest.mark.parametrize("name, content", [("sit.pt", b"PK\x03\x04" + b"\n\xff\x00" * 9), ("x.npz", b"\n\n\n"), ("images.png", b"\x89PNG\n"),
                                           ("w.safetensors", b"{\0\0\0\0\0\0\0{}\n\n\n")])
def test_what_is_no_file_of_evaluations_is_one_line(evals, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    result = CliRunner().invoke(main, ["compare", str(evals("a", 10.0)), str(tmp_path / name)])
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1, result.output
    assert f"`ditscale evaluate {tmp_path / name} ...`, which writes them to {tmp_path / name}.evals.jsonl" in result.output


def test_the_effective_speedup_of_two_runs_counts_their_own_compute(tmp_path, values):
    """At equal images masked training took fewer FLOPs: what A would need is over what B took."""
    from ditscale.config import resolve
    from ditscale.cost.runs import training_flops
    from ditscale.dotted import set_key

    flops = {}
    for name, objective, score in (("a", "baseline", 2.0), ("b", "masked", 1.9)):
        set_key(values, "model.name", "DiT-femto/2")
        config = resolve({**values, "objective": {"name": objective}}, "test")
        flops[name] = training_flops(config, 320)
        run = RunDir(tmp_path / name)
        run.create({"run_id": name, "config": config.model_dump(mode="json")})
        append_line(run.evals, {"images_seen": 320, "metric": "loss", "score": score, "passport": {**PASSPORT, "metric": "loss"}})
    shown = CliRunner().invoke(main, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--floor", "1.6", "--exponent", "0.3"])
    expected = ((2.0 - 1.6) / (1.9 - 1.6)) ** (1 / 0.3) * flops["a"] / flops["b"]
    assert shown.exit_code == 0 and f"effective speed-up {expected:.3g}: to reach the loss of B" in shown.output and flops["b"] < 0.9 * flops["a"]


def test_the_effective_speedup_of_two_losses_is_the_closed_form(evals):
    a, b = evals("a", 2.0, metric="loss"), evals("b", 1.9, metric="loss")

    def run(*words):
        return CliRunner().invoke(main, ["compare", *words])
    shown = run(a, b, "--floor", "1.6", "--exponent", "0.1")
    expected = ((2.0 - 1.6) / (1.9 - 1.6)) ** (1 / 0.1)
    words = f"effective speed-up {expected:.3g}, if both took the same compute, which is not known here"
    assert shown.exit_code == 0 and words in shown.output and "no interval" in shown.output
    assert f"effective speed-up {1 / expected:.3g}" in run(b, a, "--floor", "1.6", "--exponent", "0.1").output
    assert "speed-up" not in run(a, b).output
    for words, message in [([a, b, "--floor", "1.6"], "give both --floor E and --exponent ALPHA"),
                           ([a, b, "--floor", "1.95", "--exponent", "0.1"], "floor 1.95 must be at least 0 and below every loss"),
                           ([evals("c", 9.0), b, "--floor", "1", "--exponent", "0.1"], "has a fid; --floor and --exponent are for validation losses"),
                           ([evals("d", 2.0, metric="loss", samples=64), b, "--floor", "1", "--exponent", "0.1"], "were measured differently")]:
        shown = run(*words)
        assert shown.exit_code == 2 and message in shown.output and shown.output.count("\n") == 1, shown.output
