"""Files of the first form, which say no format, stay readable; those of a later ditscale are refused in one line.

``first/`` holds files as ditscale wrote them before they had a format: a run's record, its status, its lines, a checkpoint's state, a
manifest.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.evaluation.passport import digest
from ditscale.formats import MANIFEST, RECORD, VERSIONS, NewerFormat
from ditscale.rundir import RunDir, read_lines
from ditscale.tensorfile import file_sha256

FIRST = Path(__file__).parent / "first"
LATER = re.compile(r"has format (\d+); this ditscale reads format (\d+) and older: upgrade ditscale")


def ditscale(*arguments, refused=None):
    """What a command prints; with ``refused`` it must end with one line that names this file and both formats."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert (done.exit_code != 0) == bool(refused), done.output
    if refused:
        [line] = [text for text in done.output.splitlines() if LATER.search(text)]
        assert refused in line and LATER.search(line)[1] == str(int(LATER.search(line)[2]) + 1), done.output
    return done.output


def rewritten(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=2) + "\n")


def later(values, kind=RECORD):
    """Of the version after this ditscale's; all kinds but manifests are of one."""
    return {**values, "format": VERSIONS[kind] + 1}


def plain(values):
    return {name: value for name, value in values.items() if name != "format"}


@pytest.fixture
def first(tmp_path, digits, monkeypatch):
    """The run of ``first/``, with random weights, and the data that it names."""
    from safetensors.torch import save_file

    from ditscale.objectives.from_config import build_model

    record = json.loads((FIRST / "run.json").read_text())
    run = RunDir(tmp_path / "runs" / record["study"] / record["run_id"])
    checkpoint = run.checkpoints / "images-000000000640"
    checkpoint.mkdir(parents=True)
    for name in ("run.json", "status.json", "metrics.jsonl", "evals.jsonl"):
        shutil.copy(FIRST / name, run.path)
    for name in ("ema", "masters"):
        save_file(dict(build_model(resolve(record["config"], "first")).state_dict()), checkpoint / f"{name}.safetensors")
    shutil.copy(FIRST / "state.json", checkpoint)
    hashes = {path.name: file_sha256(path) for path in checkpoint.glob("*.safetensors")}
    rewritten(checkpoint / "state.json", lambda state: {**state, "sha256": state["sha256"] | hashes})
    for path in digits.iterdir():
        (tmp_path / "data" / "digits").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / "digits")
    shutil.copy(FIRST / "train.json", tmp_path / "data" / "digits")
    monkeypatch.chdir(tmp_path)                                                # the record's paths are relative
    return run


def test_files_of_the_first_form_are_read(first):
    for path in FIRST.iterdir():
        assert '"format"' not in path.read_text()
    resolved = resolve(first.read_record()["config"], "first")
    assert resolved.science_hash() == first.read_record()["science_hash"] and first.run_id.endswith(resolved.science_hash())
    ditscale("data", "inspect", "data/digits/train.beton", "--verify")
    ditscale("sample", first.path, "made", "--images", "2")
    ditscale("collect", first.path.parent, "--out", "runs.csv")
    assert [line.split(",")[0] for line in Path("runs.csv").read_text().splitlines()[1:]] == 2 * [first.run_id]
    ditscale("evaluate", first.path, "seed=1")
    *old, new = [json.loads(line) for line in first.evals.read_text().splitlines()]
    assert [line.get("format") for line in (*old, new)] == [None, None, 1] and "format" not in new["passport"]
    for line in old:                                                           # the digits' network is another on each kind of processor
        line["passport"] |= {name: new["passport"][name] for name in ("extractor_sha256", "reference_sha256")}
        line["passport_id"] = digest(line["passport"])
    first.evals.write_text("".join(json.dumps(line) + "\n" for line in (*old, new)))
    assert f"{old[-1]['score']:.4g}" in ditscale("evaluate", first.path)       # else its passport is today's: nothing is made again
    assert len(read_lines(first.evals)) == 3


def test_a_later_record_is_refused_and_not_written_over(first):
    rewritten(first.record, later)
    before = first.record.read_bytes()
    ditscale("sample", first.path, "made", "--images", "2", refused="run.json")
    ditscale("evaluate", first.path, refused="run.json")
    ditscale("collect", first.path.parent, "--out", "runs.csv", refused="run.json")
    first.set_status("preempted", images_seen=640)
    with pytest.raises(NewerFormat, match=LATER):                              # as a launch would
        first.create(json.loads((FIRST / "run.json").read_text()))
    assert first.record.read_bytes() == before


def test_a_later_status_is_refused_and_not_written_over(first):
    assert first.status()["state"] == "done" and first.status()["host"] == "node1"
    rewritten(first.path / "status.json", later)
    before = (first.path / "status.json").read_bytes()
    ditscale("collect", first.path.parent, "--out", "runs.csv", refused="status.json")
    with pytest.raises(NewerFormat, match=LATER):                              # it does not count as queued
        first.set_status("running", images_seen=0)
    with pytest.raises(NewerFormat, match=LATER):
        first.create(json.loads((FIRST / "run.json").read_text()))
    assert (first.path / "status.json").read_bytes() == before
    rewritten(first.path / "status.json", plain)
    first.set_status("preempted", images_seen=320)
    assert json.loads((first.path / "status.json").read_text())["format"] == 1 and "format" not in first.status()


def test_a_later_checkpoint_is_refused_and_not_passed_over(first):
    rewritten(first.checkpoints / "images-000000000640" / "state.json", later)
    ditscale("sample", first.path, "made", "--images", "2", refused="state.json")
    ditscale("evaluate", first.path, "seed=2", refused="state.json")


@pytest.mark.parametrize("name", ["evals.jsonl", "metrics.jsonl"])
def test_a_later_line_is_refused(first, name):
    lines = (first.path / name).read_text().splitlines()
    (first.path / name).write_text("\n".join([lines[0], json.dumps(later(json.loads(lines[1])))]) + "\n")
    ditscale("collect", first.path.parent, "--out", "runs.csv", refused=f"{name} line 2")


def test_a_later_manifest_is_refused_and_not_built_over(first):
    manifest = Path("data/digits/train.json")
    rewritten(manifest, lambda values: later(values, MANIFEST))
    before = manifest.read_bytes()
    ditscale("data", "inspect", "data/digits/train.beton", refused="train.json")
    ditscale("data", "build", "digits", "data/digits", refused="train.json")
    assert manifest.read_bytes() == before


def test_manifests_are_of_the_oldest_version_that_says_all(pixels, latents, latent_files, vae_folders, tmp_path):
    """ditscale 0.2.0 would apply scale and shift of imported latents twice, and calls numbers per channel damage."""
    from ditscale.data.encode import encode
    from ditscale.data.importing import import_latents
    from ditscale.data.vae import load_vae

    def version(path):
        return json.loads(path.with_suffix(".json").read_text())["format"]

    assert version(pixels) == version(latents) == 1                            # as 0.2.0 wrote them
    encode(pixels, tmp_path / "tiny.beton", load_vae(vae_folders["tiny"], "cpu"), say=lambda line: None)
    source = latent_files.make("edm2", tmp_path)
    import_latents(source.path, tmp_path / "edm2.beton", say=lambda line: None, **source.options)
    assert version(tmp_path / "tiny.beton") == version(tmp_path / "edm2.beton") == VERSIONS[MANIFEST] == 2
    ditscale("data", "inspect", tmp_path / "edm2.beton", "--verify")


def test_training_resumes_a_run_of_the_first_form_and_refuses_a_later_one(digits_values, repository, tmp_path):
    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "runs_dir": str(tmp_path / "runs"),
            "config": {**digits_values, "resources": {"log_every_images": 320}},
            "parameters": {"model.name": {"values": ["DiT-atto/8"]}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))

    def command(name):
        return subprocess.run([sys.executable, "-c", "from ditscale.cli import main; main()", name, str(tmp_path / "spec.yaml")],
                              cwd=repository, capture_output=True, text=True, timeout=300)

    assert command("train").returncode == 0
    [run] = [RunDir(path.parent) for path in (tmp_path / "runs" / "study").glob("*/run.json")]
    states = sorted(run.checkpoints.glob("*/state.json"))
    for path in (run.record, *states):
        assert json.loads(path.read_text())["format"] == 1
        rewritten(path, plain)
    whole = file_sha256(states[-1].parent / "ema.safetensors")
    shutil.rmtree(states[-1].parent)
    run.set_status("preempted", images_seen=320)
    done = command("train")
    assert done.returncode == 0, done.stderr
    assert file_sha256(states[-1].parent / "ema.safetensors") == whole         # resumed: the same run
    shutil.rmtree(states[-1].parent)
    rewritten(states[0], later)
    run.set_status("preempted", images_seen=320)
    done = command("train")
    assert done.returncode != 0 and "state.json has format 2; this ditscale reads format 1" in done.stdout + done.stderr
    assert not states[-1].exists() and json.loads(states[0].read_text())["format"] == 2
