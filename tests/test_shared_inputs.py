"""Inputs that once went wrong, as they were given: each behaves as the README beside them says. Not those of DeepSpeed or of figures."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ditscale.cli import main


@pytest.fixture
def inputs(shared_folder):
    return shared_folder("inputs")


@pytest.fixture
def here(tmp_path, repository, inputs, monkeypatch):
    """A folder with the strategies and the given files, to be worked in."""
    for path in inputs.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "ds_configs").symlink_to(repository / "ds_configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(here, digits):
    """A run of tiny.yaml with two checkpoints, whose weights were drawn and saved as training saves them."""
    import torch

    from ditscale.objectives.from_config import build_model
    from ditscale.studies.launch.launch import run_record
    from ditscale.studies.spec.spec import expand, load_spec
    from ditscale.tensorfile import write_verified

    (here / "data").mkdir()
    (here / "data" / "digits").symlink_to(digits)
    spec = load_spec("tiny.yaml")
    planned = expand(spec, "tiny.yaml")[0]
    planned.run.create(run_record(spec, planned))
    for images in (1024, 2048):
        folder = planned.run.checkpoints / f"images-{images:012d}"
        folder.mkdir(parents=True)
        weights = {name: torch.randn(p.shape) * 0.1 for name, p in build_model(planned.config).named_parameters()}
        state = {"images_seen": images, "sha256": {"ema.safetensors": write_verified(folder / "ema.safetensors", weights)}}
        (folder / "state.json").write_text(json.dumps(state))
    return planned.run


def call(*words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def refused(*words) -> str:
    done = call(*words)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.output, done.output
    return done.stderr


def script(path, *words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
    runpy.run_path(str(path), run_name="__main__")


def test_tiny_imagenets_layout(here, monkeypatch):
    script(here / "make_tiny_imagenet_layout.py", here / "tiny", monkeypatch=monkeypatch)
    build = ("data", "build", "tiny", "o.beton", "--size", "32", "--workers", "1", "--split")
    done = call(*build, "train")
    assert done.exit_code == 0 and "3 classes, split train" in done.stdout
    assert json.loads((here / "o.json").read_text())["class_names"] == ["n01443537", "n01629819", "n01641577"]
    assert "class 0, n01443537, has no image in this split" in refused(*build[:3], "v.beton", *build[4:], "val")
    assert call(*build[:3], "v.beton", *build[4:], "val", "--empty-classes").exit_code == 0
    assert json.loads((here / "v.json").read_text())["class_counts"] == [0, 4, 0]


def test_a_damaged_checkpoint(trained, here, monkeypatch):
    call("sample", trained.path, "before.npz", "--images", 16, "--checkpoint", 1024)
    script(here / "make_damaged_checkpoint.py", trained.path, monkeypatch=monkeypatch)
    said = f"{trained.checkpoints / 'images-000000002048'} is skipped: ema.safetensors does not match its sha256"
    done = call("sample", trained.path, "o.npz", "--images", 16)
    assert done.exit_code == 0 and said in done.stderr
    assert (np.load("o.npz")["arr_0"] == np.load("before.npz")["arr_0"]).all()
    assert said in call("export", trained.path, "o.safetensors").stderr and said in call("evaluate", trained.path).stderr
    assert [json.loads(line)["images_seen"] for line in trained.evals.read_text().splitlines()] == [1024]
    for checkpoint in trained.checkpoints.glob("images-*"):
        (checkpoint / "ema.safetensors").write_bytes(b"")
    for words in (("sample", trained.path, "x.npz", "--images", 16), ("export", trained.path, "x.safetensors"), ("evaluate", trained.path)):
        assert "has no checkpoint with an undamaged ema" in call(*words).stderr.splitlines()[-1]


def test_lines_of_another_form(trained, here):
    trained.metrics.write_text('{"images_seen": 512}\n')
    assert f"{trained.metrics} line 1 is left out" in call("status", "tiny.yaml").stderr
    call("evaluate", trained.path)
    line = json.loads(trained.evals.read_text())
    trained.evals.write_text(json.dumps(line) + "\n" + json.dumps({name: value for name, value in line.items() if name != "passport"}) + "\n"
                             + json.dumps(line)[:300])
    done = call("collect", "tiny.yaml", "--out", "t.csv")
    assert done.stdout.startswith("1 row: t.csv\n") and f"2 lines of {trained.evals} left out" in done.stdout
    assert "line 2 is left out: it has no passport" in done.stderr and "line 3 is left out: incomplete" in done.stderr
    done = call("report", trained.path.parent)
    assert done.exit_code == 0 and "line 3 is left out" in done.stderr
    assert "2 lines of" in (trained.path.parent / "analysis" / "report.html").read_text()


@pytest.mark.parametrize("count", [4, 6])
def test_a_folder_of_a_few_images(digits, here, count):
    (here / "few").mkdir()
    for number in range(count):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)).save(here / "few" / f"{number}.png")
    done = call("evaluate", "few", "metric=fd_digits_cnn", f"extractor_path={digits / 'digits_cnn.safetensors'}",
                f"reference_path={digits / 'heldout.beton'}")
    assert done.exit_code == 0 and f"{count} images are too few: for 64 dimensions at least 320 are needed" in done.stderr


def test_labels_files(here):
    (here / "six").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(here / "six" / f"{number}.png")
    build = ("data", "build", "six", "o.beton", "--size", "8", "--workers", "1", "--labels")
    assert "class 0 has no image, labels are 1 to 3; labels that start at 1 are the usual cause" in refused(*build, "labels_one_based.csv")
    assert "3 classes" in call(*build, "labels_one_based.csv", "--first-label", 1).stdout
    (here / "o.beton").unlink()
    assert "3 classes" in call(*build, "labels_no_extension.csv").stdout


@pytest.mark.parametrize("file, words", [
    ("exclude_typo.yaml", "exclude names model.name: DiT-atto/2, which no run has"), ("data_path_empty.yaml", "'data.path' is ''"),
    ("betas_out_of_range.yaml", "train.betas has 2.0"), ("wandb_distribution.yaml", "write train.lr: {values: [0.0001, 0.01]}"),
    ("merge_key.yaml", "merge keys (<<) are not supported"),
])
@pytest.mark.parametrize("command", [("plan",), ("launch", "--launcher", "print")])
def test_specs(here, file, words, command):
    assert words in refused(command[0], file, *command[1:])
    assert not (here / "runs").exists()


def test_commands(here, digits):
    assert "is not a number of devices" in refused("plan", "tiny.yaml", "--on", "H100:999999999999")
    assert "tiny.yaml is not a run directory" in refused("sample", "tiny.yaml", "o.npz", "--images", 2)
    import torch

    if not torch.cuda.is_available():
        assert "--device cuda:0: cannot be used here" in refused("stats", digits / "heldout.beton", "o.npz", "--extractor", "digits_cnn",
                                                                 "--weights", digits / "digits_cnn.safetensors", "--device", "cuda:0")
