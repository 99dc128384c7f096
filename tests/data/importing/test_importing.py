"""An import as a whole: done once, stopped without a trace, and never over what is something else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import latent_files as made
import numpy as np
import pytest
from click.testing import CliRunner
from latent_files import make

from ditscale.cli import main
from ditscale.data import importing
from ditscale.data.beton import BetonFile
from ditscale.data.importing import import_latents
from ditscale.data.manifest import read_manifest
from ditscale.data.vae import load_vae
from ditscale.errors import UserError


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return make("fast-dit", tmp_path / "source")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "out.beton"


def imported(path, out, **options):
    return import_latents(path, out, say=lambda line: None, **options)


def refused(path, out, **options) -> str:
    with pytest.raises(UserError) as error:
        imported(path, out, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def command(*arguments):
    return CliRunner().invoke(main, ["data", "import", *map(str, arguments)])


def test_done_once(source, out):
    first = imported(source.path, out)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.parent.iterdir()}
    second = imported(source.path, out)
    assert first.made and not second.made and "already there, checked" in str(second)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.parent.iterdir()} == before
    assert sorted(before) == ["out.beton", "out.json"]


def test_what_is_something_else_is_left_alone(source, out, tmp_path):
    imported(source.path, out)
    whole = out.read_bytes()
    assert "exists already and is something else: bits fp16, not bf16" in refused(source.path, out, bits="bf16")
    assert "exists already and is something else: " in refused(source.path, out, unlabeled=True)
    (tmp_path / "numpy").mkdir()
    other = make("numpy", tmp_path / "numpy")
    assert "exists already and is something else: " in refused(other.path, out, **other.options)
    content = bytearray(whole)
    content[len(content) // 2] ^= 1                                            # in the first page of moments, or its zeros
    at = content.find(BetonFile(out).read("moments", [7]).tobytes())
    content[at] ^= 1
    out.write_bytes(content)
    assert "exists already but is not what its manifest says" in refused(source.path, out)
    out.write_bytes(whole)
    np.save(source.path / "imagenet256_features" / "7.npy", made.numbers(1, 4, 4, 4, seed=9))
    assert "exists already and is of other latents or labels" in refused(source.path, out)
    out.with_suffix(".json").unlink()
    assert "exists already and has no manifest" in refused(source.path, out)
    assert out.read_bytes() == whole
    out.unlink()
    out.with_suffix(".json").write_text("{}")
    assert "exists and is not a manifest of ditscale" in refused(source.path, out)
    assert "the name of the file to write ends in .beton" in refused(source.path, out.with_suffix(".npy"))


def test_an_error_in_the_middle_leaves_nothing(source, out, monkeypatch):
    monkeypatch.setattr("ditscale.data.latent_sources.files.BATCH_BYTES", 4 * 256)
    (source.path / "imagenet256_features" / "9.npy").write_bytes(b"")          # the last as text
    assert "9.npy: not a complete .npy file" in refused(source.path, out)
    assert list(out.parent.iterdir()) == []


def test_what_is_written_goes_to_the_disk_while_more_is_read(source, out, monkeypatch):
    """So the last fsync has little left to do; a disk that fails meanwhile ends the import in one line."""
    whole = imported(source.path, out.with_name("plain.beton")).path.read_bytes()
    monkeypatch.setattr("ditscale.data.latent_sources.files.BATCH_BYTES", 4 * 256)
    monkeypatch.setattr(importing, "FLUSH_BYTES", 1)
    flushed, flush = [], importing.flush_data
    monkeypatch.setattr(importing, "flush_data", lambda file: flushed.append(flush(file)))
    imported(source.path, out)
    assert len(flushed) > 1 and out.read_bytes() == whole
    out.unlink()

    def fails(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "flush_data", fails)
    assert "out.beton cannot be written: No space left on device" in refused(source.path, out)
    assert not out.exists()


def test_ctrl_c_leaves_nothing(source, out, monkeypatch):
    monkeypatch.setattr("ditscale.data.latent_sources.files.BATCH_BYTES", 4 * 256)
    calls = iter(range(100))

    def stop_at_the_fifth(*arguments):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return to_bits(*arguments)

    to_bits = importing._to_bits
    monkeypatch.setattr(importing, "_to_bits", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        imported(source.path, out)
    assert list(out.parent.iterdir()) == []
    monkeypatch.undo()
    assert imported(source.path, out).made


def test_a_real_sigint_ends_it(tmp_path, out):
    """Ctrl-C while a slow source is read: exit code 130, no file, no trace of threads."""
    (tmp_path / "slow").mkdir()
    source = make("fast-dit", tmp_path / "slow")
    program = ("import time, sys\nimport ditscale.data.latent_sources.files as files\nfiles.BATCH_BYTES = 256\nread = files.FolderFiles.read\n"
               "def slow(self, number):\n    if 'features' in str(self.folder):\n        time.sleep(0.1)\n        print('reading', flush=True)\n"
               "    return read(self, number)\nfiles.FolderFiles.read = slow\nfrom ditscale.cli import main\n"
               f"main(['data', 'import', {str(source.path)!r}, {str(out)!r}])\n")
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in running.stdout:
        if line == "reading\n":
            break
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in error and not [*out.parent.glob("*"), *out.parent.glob(".*")]


@pytest.fixture
def small_steps(monkeypatch):
    """Batches of 4 latents, and a note after each."""
    for module in ("files", "numpy_arrays", "tensors", "mds"):
        monkeypatch.setattr(f"ditscale.data.latent_sources.{module}.BATCH_BYTES", 4 * 256)
    monkeypatch.setattr("ditscale.data.begun.NOTE_BYTES", 1)


@pytest.fixture
def stopped(monkeypatch):
    """``stopped(call, path, out, **options)``: an import that Ctrl-C ends at its so-manieth batch."""
    def stop(call, path, out, **options):
        calls = iter(range(1000))

        def stop_there(*arguments):
            if next(calls) == call:
                raise KeyboardInterrupt
            return to_bits(*arguments)

        to_bits = importing._to_bits
        with monkeypatch.context() as patch:
            patch.setattr(importing, "_to_bits", stop_there)
            with pytest.raises(KeyboardInterrupt):
                imported(path, out, **options)
    return stop


@pytest.fixture
def read(monkeypatch):
    """How many latents the last import rounded."""
    rows = []
    to_bits = importing._to_bits
    monkeypatch.setattr(importing, "_to_bits", lambda batch, *arguments: rows.append(len(batch)) or to_bits(batch, *arguments))
    return rows


def partial(out):
    return out.with_name(f".{out.name}.partial")


@pytest.mark.parametrize("form", made.FORMS)
def test_a_stopped_import_goes_on(form, tmp_path, small_steps, stopped, read):
    source, out, said = make(form, tmp_path), tmp_path / "result" / "out.beton", []
    imported(source.path, tmp_path / "whole.beton", **source.options)
    stopped(3, source.path, out, **source.options)
    assert not out.exists() and any(partial(out).glob("*.rows"))
    stopped(4, source.path, out, **source.options)                             # again, some batches later
    read.clear()
    assert import_latents(source.path, out, say=said.append, **source.options).made
    (line,) = [line for line in said if "continuing" in line]
    there = int(line.split("from ")[1].split(" of")[0])
    assert 12 <= there < 45 and there + sum(read) == 45
    assert out.read_bytes() == (tmp_path / "whole.beton").read_bytes()
    assert out.with_suffix(".json").read_text() == (tmp_path / "whole.json").read_text()
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.beton", "out.json"]


@pytest.mark.parametrize("change", ["source", "options", "labels"])
def test_what_was_begun_from_something_else_is_not_gone_on_with(change, source, out, small_steps, stopped, read):
    stopped(5, source.path, out)
    options = {"bits": "bf16"} if change == "options" else {}
    if change == "source":
        np.save(source.path / "imagenet256_features" / "0.npy", made.numbers(1, 4, 4, 4, seed=9))
    elif change == "labels":
        np.save(source.path / "imagenet256_labels" / "0.npy", np.array([4]))
    read.clear()
    imported(source.path, out, **options)
    assert sum(read) == 45


def test_what_was_begun_and_is_damaged_is_taken_as_far_as_it_is_whole(source, out, tmp_path, small_steps, stopped, read):
    imported(source.path, tmp_path / "whole.beton")
    stopped(8, source.path, out)
    (begun,) = partial(out).glob("*.begun")
    content = bytearray(begun.read_bytes())
    content[BetonFile(tmp_path / "whole.beton")._columns["moments"][21]] ^= 1   # in the sixth batch
    begun.write_bytes(content)
    read.clear()
    imported(source.path, out)
    assert sum(read) == 45 - 20 and out.read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_a_killed_import_goes_on(tmp_path, source, out, read):
    """kill -9 while a slow source is read."""
    for number in range(45):
        np.save(source.path / "imagenet256_features" / f"{number}.npy", made.numbers(1, 4, 32, 32, seed=number))
    imported(source.path, tmp_path / "whole.beton")
    program = ("import time\nimport ditscale.data.begun as begun\nimport ditscale.data.latent_sources.files as files\nbegun.NOTE_BYTES = 1\n"
               "files.BATCH_BYTES = 4 * 16384\nread = files.FolderFiles.read\n"
               "def slow(self, number):\n    if 'features' in str(self.folder) and number:\n        time.sleep(0.05)\n"
               "    if number == 30 and 'features' in str(self.folder):\n        print('reading', flush=True)\n        time.sleep(60)\n"
               "    return read(self, number)\nfiles.FolderFiles.read = slow\nfrom ditscale.cli import main\n"
               f"main(['data', 'import', {str(source.path)!r}, {str(out)!r}])\n")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        assert any(line == "reading\n" for line in running.stdout)
        time.sleep(0.2)
        running.kill()
    read.clear()
    imported(source.path, out)
    assert 0 < sum(read) < 45 and out.read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_what_a_kill_left_goes_with_the_next(source, out):
    folder = out.with_name(f".{out.name}.partial")
    folder.mkdir(parents=True)
    (folder / f".{out.name}.0123abcd").write_bytes(b"half")
    imported(source.path, out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.beton", "out.json"]


def test_a_full_disk_is_one_line(tmp_path, out, files_limited_to):
    np.save(tmp_path / "many.npy", made.numbers(60, 4, 32, 32))
    options = {"holds": "samples", "scale": 1.0, "shift": 0.0, "applied": False, "unlabeled": True}
    with files_limited_to(1 << 20):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        assert "cannot be written: File too large" in refused(tmp_path / "many.npy", out, **options)
    assert list(out.parent.iterdir()) == []


def test_the_autoencoder_is_recorded(tmp_path, out, vae_folders):
    vae = load_vae(vae_folders["kl"], "cpu")
    source = make("edm2", tmp_path)
    encoder = imported(source.path, out, load_vae=lambda: vae, **source.options).manifest.encoder
    assert (encoder["class"], encoder["weights_sha256"]) == ("AutoencoderKL", vae.description["weights_sha256"])
    assert encoder["pixel_range"] == [0, 1] and encoder["scaling_factor"] != vae.description["scaling_factor"]
    np.save(tmp_path / "wide.npy", made.numbers(3, 8, 4, 4))
    options = {"holds": "samples", "scale": 1.0, "shift": 0.0, "applied": False, "unlabeled": True}
    assert "--vae: its latents have 4 channels, but these have 8" in refused(tmp_path / "wide.npy", tmp_path / "w.beton", load_vae=lambda: vae, **options)


def test_the_command(tmp_path, out):
    source = make("numpy", tmp_path)
    stated = ["--holds", "samples", "--scale", "0.5,1,1,2", "--shift", "0.1", "--labels", tmp_path / "labels.npy"]
    missing = command(source.path, out, *stated)
    assert missing.exit_code == 2 and "give --applied or --not-applied" in missing.stderr
    done = command(source.path, out, *stated, "--applied", "--pixel-range", "0..1", "--format", "numpy")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[:3] == [
        f"{out}: 45 latents of 4 x 4 x 4, one sample of each, no flips, fp16, 5 classes, format numpy (written in 0 s)",
        "a model sees (latent - 0.1) x [0.5, 1.0, 1.0, 2.0], which is done already", "the decoder gives pixels in [0, 1]"]
    assert read_manifest(out).encoder["applied"] is True
    for wrong, words in ((["--scale", "0"], "0: is not above 0"), (["--scale", "much"], "give one number, or one per channel"),
                         (["--holds", "moments"], "'samples', 'mean-std', 'mean-logvar'")):
        done = command(source.path, tmp_path / "x.beton", *stated, "--applied", *wrong)
        assert done.exit_code == 2 and words in done.stderr
    shown = CliRunner().invoke(main, ["data", "inspect", str(out), "--verify"])
    assert "encoder pixel_range: [0.0, 1.0]" in shown.stdout and "verified: 45 samples" in shown.stdout


def test_one_source_one_file(source, out, tmp_path, monkeypatch):
    """Whatever the batches."""
    imported(source.path, out)
    monkeypatch.setattr("ditscale.data.latent_sources.files.BATCH_BYTES", 4 * 256)
    imported(source.path, tmp_path / "small.beton")
    assert (tmp_path / "small.beton").read_bytes() == out.read_bytes()
    one, other = (json.loads(path.with_suffix(".json").read_text()) for path in (out, tmp_path / "small.beton"))
    assert one == other
    shutil.copytree(source.path, tmp_path / "copy")
    os.utime(tmp_path / "copy", (0, 0))
    assert imported(tmp_path / "copy", tmp_path / "copied.beton").manifest.source_blake2b == one["source_blake2b"]
