"""The command line: light to start, kind to mistakes."""

import gc
import importlib
import os
import pkgutil
import subprocess
import sys
import time

import pytest
import yaml

import ditscale.cli
from ditscale.cli import main
from ditscale.cli.group import COMMANDS


def run(repository, *arguments):
    return subprocess.run([sys.executable, "-c", "from ditscale.cli import main; main()", *arguments], cwd=repository,
                          capture_output=True, text=True, timeout=120)


def test_import_and_help_are_light(repository):
    """No torch, DeepSpeed or FFCV is loaded, so it takes a fraction of a second (1.5 s is the promise)."""
    code = ("import sys, ditscale, ditscale.cli\n"
            "try: ditscale.cli.main(['--help'], standalone_mode=True)\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'deepspeed', 'ffcv', 'pandas', 'matplotlib'} & set(sys.modules)\n"
            "sys.exit(f'loaded: {heavy}' if heavy else 0)")
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 1.5
    for command in ("data", "plan", "config", "launch", "train", "status", "mirror", "figure", "sample", "doctor"):
        assert command in done.stdout


NEVER = {"torch", "deepspeed", "ffcv", "pandas", "matplotlib", "scipy", "diffusers", "timm"}


@pytest.mark.parametrize("arguments, left_out", [
    (["--help"], NEVER | {"numpy", "pydantic", "yaml", "rich", "statistics", "dataclasses", "ditscale.config"}),
    (["plan", "SPEC"], NEVER | {"numpy", "rich.progress", "rich.live", "statistics", "ctypes", "ditscale.studies.launch", "ditscale.studies.launchers.process",
                                "ditscale.studies.launchers.protocol", "ditscale.studies.launchers.local", "ditscale.studies.plan.probing",
                                "ditscale.data.beton"}),
], ids=["help", "plan"])
def test_what_a_brief_command_does_not_load(repository, tmp_path, arguments, left_out):
    """Also where the data are there with a manifest that agrees, and this machine's speed was measured within the hour."""
    measured = {} if arguments == ["--help"] else plan_with_data(repository, tmp_path)
    code = ("import sys, ditscale.cli\n"
            "try: ditscale.cli.main(sys.argv[1:])\n"
            "except SystemExit as end: assert not end.code\n"
            "print('loaded:', *sys.modules, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, *(measured.get(word, word) for word in arguments)], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(repository), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.partition("loaded:")[2].split())
    assert "ditscale.cli.group" in loaded and not loaded & left_out


def plan_with_data(repository, folder) -> dict[str, str]:
    """The digits' study with its training file and manifest, and this CPU's speed, kept under ``folder``."""
    import numpy as np

    from ditscale.cost.hardware import this_machine
    from ditscale.data.beton import write_beton
    from ditscale.data.manifest import Manifest, write_manifest

    spec = yaml.safe_load((repository / "sweeps/digits_demo.yaml").read_text())
    path, labels = folder / spec["config"]["data"]["path"], np.arange(20) % 10
    path.parent.mkdir(parents=True)
    write_beton(path, {"image": np.zeros((20, 1, 8, 8), np.uint8), "label": labels})
    write_manifest(path, Manifest(name="digits", split="train", samples=20, shape=[1, 8, 8], classes=10, class_counts=[2] * 10, source="",
                                  source_blake2b="", content_blake2b="", writer="numpy", ditscale_version="0"))
    for name in ("ds_configs", "sweeps"):
        (folder / name).symlink_to(repository / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        this_machine()
    return {"SPEC": "sweeps/digits_demo.yaml"}


def test_a_brief_command_leaves_garbage_collection_as_it_was(repository, monkeypatch):
    from click.testing import CliRunner

    usual, seen = gc.get_threshold(), []
    monkeypatch.setattr("ditscale.studies.spec.spec.load_spec", lambda *arguments: seen.append(gc.get_threshold()) or 1 / 0)
    done = CliRunner().invoke(main, ["plan", str(repository / "nowhere.yaml")])
    assert isinstance(done.exception, ZeroDivisionError) and seen[0] > usual and gc.get_threshold() == usual


def test_the_list_of_commands_is_theirs():
    """Every command of every file is listed, by its own file and first sentence."""
    for module in pkgutil.iter_modules(ditscale.cli.__path__, "ditscale.cli."):
        importlib.import_module(module.name)
    wanted = {name: (command.callback.__module__.rpartition(".")[2], command.get_short_help_str(10**4)) for name, command in main.commands.items()}
    assert wanted == COMMANDS


def test_plan_prints_every_run_and_its_price(repository):
    done = run(repository, "plan", "sweeps/digits_demo.yaml", "--wide")
    assert done.returncode == 0, done.stderr
    for word in ("DiT-nano-2", "parameters", "tokens", "GMACs / image", "epochs", "1,865,988", "0.01996"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments, words", [
    (("plan", "nowhere.yaml"), "nowhere.yaml: no such file"),
    (("figure", "bubbles", "nowhere.csv"), "nowhere.csv: no such file"),
    (("report", "nowhere.csv"), "nowhere.csv: no such file"),
    (("plan", "sweeps/digits_demo.yaml", "--on", "H1000:8"), "no accelerator 'H1000'; did you mean 'H100'?"),
    (("plan", "README.md"), "README.md"),
    (("plan", "sweeps/digits_demo.yaml", "train.lr"), "key=value"),
    (("plan", "sweeps/digits_demo.yaml", "model.name=DiT-XS/2"), "no size 'XS'"),
    (("status", "sweeps"), "sweeps"),
    (("train", "sweeps/digits_demo.yaml"), "train takes one. They differ in model.name: DiT-atto/8, DiT-femto/8"),
])
def test_mistakes_are_one_line(repository, arguments, words):
    done = run(repository, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_a_csv_of_scores_alone_has_a_report_and_its_figures_leave_nothing_when_refused(repository, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("model,score,images_seen\n" + "".join(f"DiT-{size}/2,{score},1000000\n" for size, score in (("S", 60), ("B", 40), ("L", 30))))
    done = run(repository, "report", str(path), "--out", str(tmp_path / "page"))
    assert done.returncode == 0 and "unknown" in (tmp_path / "page/report.html").read_text()
    done = run(repository, "figure", "gflops", str(path), "--out", str(path))
    assert done.returncode == 2 and done.stderr == f"error: --out {path}: is not a folder; give another\n"
    done = run(repository, "figure", "bubbles", str(path), "--out", str(tmp_path / "new"), "--published", "no-such-paper")
    assert done.returncode == 2 and not (tmp_path / "new").exists()


def test_unknown_command(repository):
    done = run(repository, "lunch")
    assert done.returncode == 2 and "No such command 'lunch'" in done.stderr


def test_doctor_finds_what_tests_need(repository):
    done = run(repository, "doctor")
    assert done.returncode == 0, done.stdout
    for name in ("Python", "torch", "accelerator", "DeepSpeed", "FFCV", "C++ compiler", "disk", "sbatch", "pdsh"):
        assert name in done.stdout


def test_doctor_names_the_command_that_mends_ffcv(monkeypatch):
    import importlib.util

    from ditscale.doctor import _ffcv

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    finding = _ffcv()
    assert finding.state == "optional" and "apt-get install -y pkg-config libturbojpeg0-dev libopencv-dev" in finding.mend


def test_data_build(repository, tmp_path):
    first = run(repository, "data", "build", "digits", str(tmp_path / "digits"))
    assert first.returncode == 0 and "1437" in first.stdout and "feature network trained" in first.stdout
    again = run(repository, "data", "build", "digits", str(tmp_path / "digits"))
    assert again.returncode == 0 and "trained" not in again.stdout


def test_data_build_into_a_file(repository, tmp_path):
    (tmp_path / "taken").write_text("")
    done = run(repository, "data", "build", "digits", str(tmp_path / "taken"))
    assert done.returncode == 2 and str(tmp_path / "taken") in done.stderr and done.stderr.count("\n") == 1


def test_data_build_of_images(repository, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (9, 8), name == "cat" and "red" or "blue").save(tmp_path / "images" / name / "1.png")
    command = ("data", "build", str(tmp_path / "images"), str(tmp_path / "x.beton"), "--size", "8")
    done = run(repository, *command)
    assert done.returncode == 0 and "2 images of 8 x 8 pixels, 3 channels, 2 classes" in done.stdout, done.stderr
    assert "already there, checked" in run(repository, *command, "--workers", "1").stdout
    (tmp_path / "images" / "dog" / "2.jpg").write_bytes(b"")
    for wrong, words in ((command, "exists already with other images or labels"), ((*command[:3], str(tmp_path / "y.beton")), "dog/2.jpg"),
                         (("data", "build", "digits", str(tmp_path / "d"), "--size", "8"), "digits takes no options; leave out --size"),
                         (("data", "build", "cifar10", str(tmp_path / "c.beton")), "add --download"),
                         ((*command, "--download"), "--download works only for cifar10"),
                         (("data", "build", "digit", str(tmp_path / "d.beton")), "digit: no such file or folder")):
        bad = run(repository, *wrong)
        assert bad.returncode == 2 and bad.stdout == "" and words in bad.stderr and "Traceback" not in bad.stderr
        assert bad.stderr.splitlines()[-1].startswith("error: ")
    skipped = run(repository, *command[:3], str(tmp_path / "y.beton"), "--on-error", "skip", "--channels", "1")
    assert skipped.returncode == 0 and "left out: 1 image: dog/2.jpg" in skipped.stdout


def test_models_table(repository):
    done = run(repository, "models")
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if line.startswith("DiT-XL/2"))
    assert row.split()[1:8] == ["28", "1152", "16", "674,834,720", "256", "118.621", "237.243"]
    csv = run(repository, "models", "--format", "csv", "--resolution", "64", "--block", "cross_attention").stdout.splitlines()
    assert csv[0].startswith("model,depth") and len(csv) == 1 + 9 * 3
    assert run(repository, "models", "--format", "markdown").stdout.startswith("| model |")
    masked = run(repository, "models", "--variant", "masked", "--resolution", "8", "--format", "csv").stdout.splitlines()
    assert masked[0].endswith("GFLOPs,training GMACs,to baseline") and len(masked) == 1 + 9 * 2  # patch 8: one token
    for wrong in (("--block", "adalnzero"), ("--resolution", "7"), ("--variant", "mdt", "--resolution", "2")):
        bad = run(repository, "models", *wrong)
        assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and bad.stdout == ""


def test_convert(repository, tmp_path):
    from ditscale.models.convert import save_model
    from ditscale.models.dit import create_model

    save_model(create_model("DiT-atto/4", seed=0, input_size=8, in_channels=4), tmp_path / "a.pt")
    done = run(repository, "convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"))
    assert done.returncode == 0 and (tmp_path / "b.safetensors").exists(), done.stderr
    again = run(repository, "convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"))
    assert again.returncode == 2 and "already exists" in again.stderr
    missing = run(repository, "convert", str(tmp_path / "none.pt"), str(tmp_path / "c.safetensors"))
    assert missing.returncode == 2 and "no such file" in missing.stderr


def test_data_inspect(repository, digits, tmp_path):
    path = str(digits / "train.beton")
    done = run(repository, "data", "inspect", path, "--verify", "--grid", str(tmp_path / "grid.png"))
    assert done.returncode == 0, done.stderr
    for words in ("1,437 samples", "10 classes", "verified: 1,437 samples", "64 images, evenly spread"):
        assert words in done.stdout
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("arguments, words", [
    (("inspect", "nowhere.beton"), "nowhere.beton: no such file"),
    (("inspect", "README.md", "--verify"), "README.md: not a .beton file"),
    (("encode", "nowhere.beton", "out.beton", "--vae", "tests"), "nowhere.beton: no such file; build it first"),
])
def test_data_mistakes_are_one_line(repository, arguments, words):
    done = run(repository, "data", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
