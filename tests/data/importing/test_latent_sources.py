"""Others' latents, each by its tool's own rule; what does not fit is refused in one line that names the file."""

import bz2
import gzip
import importlib.util
import json
import pickle
import shutil
import struct
import zipfile

import latent_files as made
import numpy as np
import pytest
import torch
from latent_files import FORMS, IMAGES, SHAPE, STATED, make
from safetensors.torch import save_file

from ditscale.data.beton import BetonFile
from ditscale.data.importing import import_latents
from ditscale.data.latent_sources import FORMATS
from ditscale.data.latents import from_bits
from ditscale.data.manifest import content_blake2b, read_manifest
from ditscale.errors import UserError

STATED_SAMPLES = STATED | {"holds": "samples"}


def imported(path, out, **options):
    return import_latents(path, out, say=lambda line: None, **options)


def refused(path, tmp_path, **options) -> str:
    with pytest.raises(UserError) as error:
        imported(path, tmp_path / "refused.beton", **options)
    assert "\n" not in str(error.value) and not [name for name in tmp_path.iterdir() if "refused" in name.name]
    return str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_holds_what_the_tools_own_reader_gives(form, tmp_path):
    source = make(form, tmp_path)
    summary = imported(source.path, tmp_path / "out.beton", **source.options)
    file, manifest = BetonFile(tmp_path / "out.beton"), read_manifest(tmp_path / "out.beton")
    stored = file.read("moments", np.arange(IMAGES))
    assert stored.shape == source.expected.shape and (file.read("label", np.arange(IMAGES)) == source.labels).all()
    found = from_bits(torch.from_numpy(stored), "fp16").numpy()
    if form == "safetensors":                                                  # exp of a log
        np.testing.assert_allclose(found, source.expected, rtol=2**-10)
    else:
        assert (found == source.expected.astype(np.float16)).all()
    assert manifest.content_blake2b == content_blake2b(stored, source.labels) and manifest.class_counts == [9] * 5
    assert manifest == summary.manifest and manifest.shape == list(SHAPE) and manifest.kind == "latents"


FACTS = {                                                                      # has_std, flips, applied, pixels, scale
    "edm2": (True, "none", False, [0, 1], pytest.approx([.5 / 4.17, .5 / 4.62, .5 / 3.71, .5 / 3.28])),
    "repa": (True, "none", False, [-1, 1], 0.18215),
    "fast-dit": (False, "random", True, [-1, 1], 0.18215),
    "numpy": (False, "none", False, [-1, 1], 0.18215),
    "safetensors": (True, "none", False, [-1, 1], 0.18215)}


@pytest.mark.parametrize("form", FACTS)
def test_the_manifest_says_what_is_known(form, tmp_path):
    source = make(form, tmp_path)
    encoder = imported(source.path, tmp_path / "out.beton", **source.options).manifest.encoder
    assert (encoder["has_std"], encoder["flips"], encoder["applied"], encoder["pixel_range"], encoder["scaling_factor"]) == FACTS[form]
    assert encoder["format"] == form and encoder["weights_sha256"] == ""
    assert encoder["shift_factor"] == {"edm2": [5.81, 3.25, 0.12, -2.15], "numpy": 0.25, "safetensors": 0.25}.get(form, 0.0)


def test_lightningdits_statistics_are_what_a_model_sees(tmp_path):
    source = make("lightningdit", tmp_path)
    encoder = imported(source.path, tmp_path / "out.beton").manifest.encoder
    samples = source.expected[:, 0, 0]
    np.testing.assert_allclose(encoder["shift_factor"], samples.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(1 / np.array(encoder["scaling_factor"]), samples.std((0, 2, 3)), rtol=1e-5)
    assert (encoder["flips"], encoder["has_std"]) == ("stored", False)
    (source.path / "latents_stats.pt").unlink()
    assert "give --scale and --shift in its place" in refused(source.path, tmp_path)
    encoder = imported(source.path, tmp_path / "other.beton", scale=0.18215, shift=0.0).manifest.encoder
    assert (encoder["scaling_factor"], encoder["shift_factor"]) == (0.18215, 0.0)


def test_the_format_is_guessed_where_that_is_clear(tmp_path):
    lines = []
    source = make("repa", tmp_path)
    import_latents(source.path, tmp_path / "out.beton", say=lines.append)
    assert lines == [f"{source.path}: format repa, by its files' names"]
    (tmp_path / "z").mkdir()
    archive = make("edm2", tmp_path / "z").path
    assert "EDM2's latents and REPA's look the same but were encoded from other pixels; give --format edm2" in refused(archive, tmp_path)
    repa = imported(archive, tmp_path / "repa.beton", format="repa").manifest
    assert repa.encoder["pixel_range"] == [-1, 1]
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    assert "--format edm2" in refused(tmp_path / "unpacked", tmp_path)
    unpacked = imported(tmp_path / "unpacked", tmp_path / "edm2.beton", format="edm2").manifest
    assert unpacked.content_blake2b == repa.content_blake2b and unpacked.source_blake2b == repa.source_blake2b
    (tmp_path / "empty").mkdir()
    assert "no latents of a known format; --format names one: edm2: EDM2's" in refused(tmp_path / "empty", tmp_path)
    assert "did you mean 'fast-dit'" in refused(tmp_path / "empty", tmp_path, format="fastdit")


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_of_no_format_is_refused(form, tmp_path):
    options = {} if form in ("edm2", "repa", "fast-dit", "lightningdit") else STATED_SAMPLES
    empty, text = tmp_path / "empty", tmp_path / "text.txt"
    empty.mkdir()
    text.write_text("hello")
    for path in (empty, text, tmp_path / "missing"):
        assert refused(path, tmp_path, format=form, unlabeled=True, **options).startswith(f"{path}")
    for name in ("a.zip", "a.npy", "a.npz", "a.safetensors", "index.json", "latents_rank00_shard000.safetensors", "0.npy"):
        (empty / name).write_text("hello")
        assert str(empty) in refused(empty, tmp_path, format=form, unlabeled=True, **options)
        assert str(empty / name) in refused(empty / name, tmp_path, format=form, unlabeled=True, **options)
    with pytest.raises(UserError):
        imported(empty, tmp_path / "refused.beton")


def test_numbers_need_a_line_that_says_what_they_are(tmp_path):
    source = make("numpy", tmp_path)
    for name in ("holds", "scale", "shift", "applied"):
        options = {key: value for key, value in source.options.items() if key != name}
        assert f"give --{name}" in refused(source.path, tmp_path, **options)
    assert "5 numbers for 4 channels" in refused(source.path, tmp_path, **source.options | {"scale": [1.0] * 5})
    np.save(tmp_path / "odd.npy", made.numbers(3, 3, 4, 4))
    assert "odd.npy: has 3 channels, not a mean and as many channels of its std" in \
        refused(tmp_path / "odd.npy", tmp_path, unlabeled=True, **STATED | {"holds": "mean-std"})
    archive = make("edm2", tmp_path).path
    assert "--scale: the format edm2 determines that" in refused(archive, tmp_path, format="edm2", scale=1.0)


def test_bf16_and_half_precision_are_read(tmp_path):
    values = torch.from_numpy(made.numbers(6, *SHAPE)).bfloat16()
    save_file({"x": values, "labels": torch.arange(6)}, tmp_path / "a.safetensors")
    imported(tmp_path / "a.safetensors", tmp_path / "a.beton", bits="bf16", **STATED_SAMPLES)
    stored = BetonFile(tmp_path / "a.beton").read("moments", np.arange(6))
    assert torch.equal(torch.from_numpy(stored[:, 0, 0]).view(torch.bfloat16), values)
    for kind in (">f4", "<f8", "<f2"):
        values = np.random.default_rng(0).normal(size=(60, *SHAPE)).astype(kind)
        np.save(tmp_path / "b.npy", values)
        (tmp_path / "b.beton").unlink(missing_ok=True)
        imported(tmp_path / "b.npy", tmp_path / "b.beton", unlabeled=True, **STATED_SAMPLES)
        stored = BetonFile(tmp_path / "b.beton").read("moments", np.arange(60))[:, 0, 0].view(np.float16)
        assert (stored == values.astype(np.float16)).all()


def repacked(path, tmp_path, changes, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files |= changes
    return made.zipped(tmp_path / "changed.zip", {name: content for name, content in files.items() if content is not None}, method)


def test_a_mixture_is_refused(tmp_path):
    path, name = make("edm2", tmp_path).path, "00000/img-mean-std-00000007.npy"
    for array, words in ((made.numbers(8, 2, 2), "float32 8 x 2 x 2"), (made.numbers(4, 4, 4), "float32 4 x 4 x 4"),
                         (made.numbers(8, 4, 4, kind=np.float16), "float16 8 x 4 x 4"), (np.zeros((8, 4, 4), np.int32), "int32 8 x 4 x 4")):
        changed = repacked(path, tmp_path, {name: made.npy(array)})
        assert f"{changed}: {name}: holds {words}, but {changed}: 00000/img-mean-std-00000000.npy holds float32 8 x 4 x 4" in \
            refused(changed, tmp_path, format="edm2")
    changed = repacked(path, tmp_path, {"00000/img00000000.png": b""})
    assert "holds the image 00000/img00000000.png next to latents" in refused(changed, tmp_path, format="edm2")
    source = make("lightningdit", tmp_path)
    second = source.path / "latents_rank00_shard001.safetensors"
    whole = {"latents": torch.zeros(15, 4, 4, 4), "latents_flip": torch.zeros(15, 4, 4, 4), "labels": torch.zeros(15, dtype=torch.int64)}
    for changes, words in (({"latents": torch.zeros(15, 4, 2, 2), "latents_flip": torch.zeros(15, 4, 2, 2)}, f"{second}: holds float32 4 x 2 x 2"),
                           ({"latents": torch.zeros(14, 4, 4, 4)}, f"{second}: '"),
                           ({"labels": torch.zeros(3, dtype=torch.int64)}, f"{second}: 'labels' is int64 3"),
                           ({"latents_flip": None}, f"{second}: has no latents_flip")):
        save_file({name: value for name, value in (whole | changes).items() if value is not None}, second)
        assert words in refused(source.path, tmp_path)
    second.rename(source.path / "latents_rank00_shard002.safetensors")
    assert "latents_rank00_shard001.safetensors is missing; rank 00 has shards to 2" in refused(source.path, tmp_path)
    shards = make("numpy shards", tmp_path).path
    np.save(shards / "1.npy", made.numbers(5, 8, 4, 4))
    assert f"{shards / '1.npy'}: holds float32 8 x 4 x 4" in refused(shards, tmp_path, **STATED_SAMPLES)


def test_labels_are_counted(tmp_path):
    path, first = make("edm2", tmp_path).path, "00000/img-mean-std-00000000.npy"
    table = [[f"00000/img-mean-std-{number:08d}.npy", number % 5] for number in range(IMAGES)]
    for labels, words in ((table[1:], f"dataset.json: has no label for 1 of 45 latents, for example {first}"),
                          ([*table, ["00000/more.npy", 1]], "has labels for 46 latents, but 45 are there; 00000/more.npy is not"),
                          (None, "holds no labels; give --labels FILE, or --unlabeled"),
                          ([[name, label + 1] for name, label in table], "--first-label 1"),
                          ([*table, table[0]], "twice")):
        changed = repacked(path, tmp_path, {"dataset.json": json.dumps({"labels": labels}).encode()})
        assert words in refused(changed, tmp_path, format="edm2")
    changed = repacked(path, tmp_path, {"dataset.json": None})
    assert imported(changed, tmp_path / "u.beton", format="edm2", unlabeled=True).manifest.classes == 1
    (tmp_path / "labels.csv").write_text("name,label\n" + "".join(f"{name},{'cat' if label else 'ant'}\n" for name, label in table))
    named = imported(changed, tmp_path / "n.beton", format="edm2", labels=tmp_path / "labels.csv").manifest
    assert named.class_names == ["ant", "cat"] and named.class_counts == [9, 36]
    source = make("numpy", tmp_path)
    np.save(tmp_path / "labels.npy", np.arange(44) % 5)
    assert "labels of shape (44,) for 45 latents" in refused(source.path, tmp_path, **source.options)
    assert "holds 45 latents, not the 50 of --count" in refused(source.path, tmp_path, count=50, **source.options | {"labels": None, "unlabeled": True})


def test_fast_dits_numbers_must_fit(tmp_path, monkeypatch):
    from ditscale.data.latent_sources import fast_dit

    source = make("fast-dit", tmp_path)
    features, labels = tmp_path / "imagenet256_features", tmp_path / "imagenet256_labels"
    monkeypatch.setattr(fast_dit, "IMAGENET", 8 * 45 - 3)
    assert "holds 45 files, which is ImageNet's 357 / 8: made on 8 GPUs, whose ranks overwrote" in refused(source.path, tmp_path)
    assert imported(source.path, tmp_path / "taken.beton", count=45).manifest.samples == 45
    monkeypatch.undo()
    shutil.copy(features / "3.npy", features / "20.npy")
    assert f"{features}/3.npy: is a copy of 20.npy" in refused(source.path, tmp_path) or \
        f"{features}/20.npy: is a copy of 3.npy" in refused(source.path, tmp_path)
    (features / "20.npy").unlink()
    assert f"44 features but 45 labels; {features / '20.npy'} is missing" in refused(source.path, tmp_path)
    (labels / "20.npy").unlink()
    assert "holds 44 files, but the last is 44.npy; 20.npy is missing" in refused(source.path, tmp_path)
    (features / "copy.npy").write_bytes(b"")
    assert "copy.npy: the format fast-dit has 0.npy, 1.npy, ... alone" in refused(source.path, tmp_path)
    shutil.rmtree(labels)
    assert "needs one folder NAME_features and NAME_labels next to it; it has imagenet256_features" in refused(source.path, tmp_path)


class Bomb:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content, words", [
    (b"", "not a complete .npy file"), (b"\x93NUMPY", "not a complete .npy file"), (b"x" * 300, "not a complete .npy file"),
    (made.npy(made.numbers(8, 4, 4))[:-1], "it was truncated"), (made.npy(made.numbers(8, 4, 4)) + b"x", "its header says"),
    (made.npy(np.array([Bomb()], object)), "Python objects, which are not unpickled"), (made.npy(np.array(["a"])), "numbers are needed"),
    (made.npy(np.full((8, 4, 4), np.nan, np.float32)), "holds a number that is not finite"),
    (made.npy(np.full((8, 4, 4), 1e6, np.float32)), "holds 1e+06, which fp16 cannot hold; --bits bf16 may"),
])
@pytest.mark.parametrize("number", [0, 30])
def test_hostile_npy(content, words, number, tmp_path, capfd):
    name = f"00000/img-mean-std-{number:08d}.npy"
    changed = repacked(make("edm2", tmp_path).path, tmp_path, {name: content})
    message = refused(changed, tmp_path, format="edm2")
    assert words in message and f"{changed}: {name}: " in message and "never run" not in capfd.readouterr().out


def test_hostile_archives(tmp_path):
    path = make("edm2", tmp_path).path
    deflated = repacked(path, tmp_path, {}, zipfile.ZIP_DEFLATED)
    imported(deflated, tmp_path / "d.beton", format="edm2")
    imported(path, tmp_path / "s.beton", format="edm2")
    assert (tmp_path / "d.beton").read_bytes() == (tmp_path / "s.beton").read_bytes()
    assert "compressed by method 14; pack it again, stored" in refused(repacked(path, tmp_path, {}, zipfile.ZIP_LZMA), tmp_path, format="edm2")
    for name in ("../x.npy", "/x.npy", "a/../../x.npy", "..\\x.npy"):
        assert "points outside the archive" in refused(repacked(path, tmp_path, {name: b""}), tmp_path, format="edm2")
    content = bytearray(path.read_bytes())
    at = content.find(b"\x93NUMPY", len(content) // 3)
    content[at + 200] ^= 1
    (tmp_path / "flipped.zip").write_bytes(content)
    assert "damaged: the archive states another size or checksum" in refused(tmp_path / "flipped.zip", tmp_path, format="edm2")
    (tmp_path / "cut.zip").write_bytes(content[:-100])
    assert "not a complete zip archive" in refused(tmp_path / "cut.zip", tmp_path, format="edm2")


def test_hostile_tensors(tmp_path, capfd):
    source = make("lightningdit", tmp_path)
    shard, stats = source.path / "latents_rank01_shard000.safetensors", source.path / "latents_stats.pt"
    content = shard.read_bytes()
    for damaged in (b"", content[:100], content[:-1], struct.pack("<Q", 1 << 60) + content[8:]):
        shard.write_bytes(damaged)
        assert f"{shard}: not a complete safetensors file" in refused(source.path, tmp_path)
    shard.write_bytes(content)
    for value in ({"mean": Bomb(), "std": Bomb()}, {"mean": torch.zeros(1, 4, 1, 1)}, [1], {"mean": 1, "std": 2},
                  {"mean": torch.zeros(1, 4, 1, 1), "std": torch.zeros(1, 4, 1, 1)}, {"mean": torch.zeros(3), "std": torch.ones(3)}):
        torch.save(value, stats)
        assert f"{stats}: " in refused(source.path, tmp_path)
    for damaged in (b"", pickle.dumps(Bomb()), b"PK\x03\x04"):
        stats.write_bytes(damaged)
        assert f"{stats}: " in refused(source.path, tmp_path)
    assert "never run" not in capfd.readouterr().out


def test_hostile_arrays(tmp_path):
    source = make("numpy", tmp_path)
    content = source.path.read_bytes()
    for damaged, words in ((content[:-100], "ends in row 44 of 45"), (content + b"x", "has more bytes than its header says"),
                           (content[:20], "not a complete .npy file"), (made.npy(np.array([Bomb()], object)), "not unpickled"),
                           (made.npy(np.zeros((2, 3))), "floats of N x channels x height x width are needed"),
                           (made.npy(np.asfortranarray(made.numbers(5, *SHAPE))), "Fortran")):
        source.path.write_bytes(damaged)
        message = refused(source.path, tmp_path, **source.options | {"labels": None, "unlabeled": True})
        assert words in message and str(source.path) in message
    source.path.write_bytes(content)
    (tmp_path / "labels.npy").write_bytes(made.npy(np.array([Bomb()], object)))
    assert f"--labels {tmp_path / 'labels.npy'}: not an array of numbers" in refused(source.path, tmp_path, **source.options)


def test_other_compressions_of_mds_are_named(tmp_path):
    path = made.mds_folder(tmp_path / "mds", {"x": "ndarray"}, [{"x": b"x"}], sizes=(1,), compress=lambda content: content, ending=".br")
    assert refused(path, tmp_path, unlabeled=True, **STATED_SAMPLES) == \
        f"{path / 'shard.00000.mds.br'}: is compressed by br; zstd, gz, bz2 and shards that are not compressed are read"


@pytest.mark.parametrize("ending, compress", [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_mds(ending, compress, tmp_path):
    rows = [{"x": made.ndarray_bytes(sample, "ndarray"), "y": np.uint8(number % 5).tobytes()}
            for number, sample in enumerate(made.numbers(45, *SHAPE, kind=np.float16))]
    path = made.mds_folder(tmp_path / "mds", {"x": "ndarray", "y": "uint8"}, rows, compress=compress, ending=ending)
    imported(path, tmp_path / "out.beton", **STATED_SAMPLES)
    stored = BetonFile(tmp_path / "out.beton").read("moments", np.arange(45))[:, 0, 0].view(np.float16)
    assert (stored == made.numbers(45, *SHAPE, kind=np.float16)).all()


def test_zstd_is_read_where_its_package_is_there(tmp_path):
    path = made.mds_folder(tmp_path / "mds", {"x": "ndarray"}, [{"x": made.ndarray_bytes(made.numbers(*SHAPE), "ndarray")}], sizes=(1,),
                           compress=lambda content: b"(\xb5/\xfdnot really" + content[:9], ending=".zstd")
    there = importlib.util.find_spec("zstandard")
    message = refused(path, tmp_path, unlabeled=True, **STATED_SAMPLES)
    assert f"{path / 'shard.00000.mds.zstd'}: " in message and ("damaged" if there else "pip install zstandard reads it") in message


def test_hostile_mds(tmp_path):
    path = make("mds", tmp_path).path
    shard, index = path / "shard.00001.mds", json.loads((path / "index.json").read_text())
    content = shard.read_bytes()
    words = np.frombuffer(content[:4 * 16], np.uint32).copy()
    words[5] = 7
    for damaged, said in ((content[:-1], "index.json says"), (b"", "index.json says"),
                          (words.tobytes() + content[4 * 16:], "its header does not state 15 samples"),
                          (b"\xff" * len(content), "its header does not state")):
        shard.write_bytes(damaged)
        message = refused(path, tmp_path, **STATED_SAMPLES)
        assert said in message and str(shard) in message
    shard.unlink()
    assert f"{shard}: no such file, but index.json names it" in refused(path, tmp_path, **STATED_SAMPLES)
    shard.write_bytes(content)

    def changed(change):
        other = json.loads(json.dumps(index))
        change(other)
        (path / "index.json").write_text(json.dumps(other))
        return refused(path, tmp_path, **STATED_SAMPLES)

    entry = index["shards"][0]
    assert "points out of the folder" in changed(lambda other: other["shards"][1]["raw_data"].update(basename="../../x"))
    assert "not an index of MDS shards" in changed(lambda other: other.pop("shards"))
    assert "not an index of MDS shards" in changed(lambda other: other["shards"][0].update(samples="many"))
    assert "version 2 is read" in changed(lambda other: other.update(version=3))
    assert "shards of one kind are needed" in changed(lambda other: other["shards"][1].update(column_encodings=["str", "int", "ndarray"]))
    (path / "index.json").write_text("[" * 100_000)
    assert "not an index of MDS shards" in refused(path, tmp_path, **STATED_SAMPLES)
    assert entry["column_encodings"] == ["str", "int", "ndarray:float32:4,4,4"]
    (path / "index.json").write_text(json.dumps(index))
    assert "name it with --key: caption (str), label (int), x (ndarray:float32:4,4,4)" in refused(path, tmp_path, key="y", **STATED_SAMPLES)


def test_mds_of_several_shapes_is_refused(tmp_path):
    rows = [{"x": made.ndarray_bytes(made.numbers(4, side, side), "ndarray")} for side in (4, 4, 8)]
    path = made.mds_folder(tmp_path / "mds", {"x": "ndarray"}, rows, sizes=(2, 1))
    message = refused(path, tmp_path, unlabeled=True, **STATED_SAMPLES)
    assert f"{path / 'shard.00001.mds'}: sample 0: holds float32 4 x 8 x 8, but {path / 'shard.00000.mds'}: sample 0 holds" in message
    made.mds_folder(tmp_path / "pickled", {"x": "ndarray", "label": "pkl"}, [{"x": rows[0]["x"], "label": pickle.dumps(Bomb())}], sizes=(1,))
    assert "nothing is unpickled" in refused(tmp_path / "pickled", tmp_path, **STATED_SAMPLES)
