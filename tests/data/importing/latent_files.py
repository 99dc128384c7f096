"""Others' latents in small, written by the rule of each tool: what ``make(form, folder)`` wrote, and what its own reader would give."""

import io
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file

IMAGES, SHAPE = 45, (4, 4, 4)
STATED = {"scale": 0.18215, "shift": 0.25, "applied": False}
MDS_INTS = {"uint8": 8, "float16": 18, "float32": 34, "float64": 66, "int64": 65}


def numbers(*shape, seed=0, kind=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(kind)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def written(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(path, files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def moments(count=IMAGES, seed=0):
    """Means and, above 0, stds: (count, 2, c, h, w)."""
    values = numbers(count, 2, *SHAPE, seed=seed)
    values[:, 1] = np.abs(values[:, 1]) + 0.01
    return values


def mean_std_files(values, labels):
    """As EDM2's and REPA's dataset tools name them."""
    names = [f"{number // 1000:05d}/img-mean-std-{number:08d}.npy" for number in range(len(values))]
    files = {name: npy(value.reshape(-1, *SHAPE[1:])) for name, value in zip(names, values)}
    return files | {"dataset.json": json.dumps({"labels": [list(pair) for pair in zip(names, map(int, labels))]}).encode()}


def fast_dit_files(samples, labels):
    return {f"imagenet256_features/{number}.npy": npy(sample[None]) for number, sample in enumerate(samples)} | \
        {f"imagenet256_labels/{number}.npy": npy(np.array([label])) for number, label in enumerate(labels)}


def lightningdit_shards(folder, samples, flips, labels, sizes=(20, 15, 10)):
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, size in enumerate(sizes):
        rows = slice(first, first + size)
        save_file({"latents": torch.from_numpy(samples[rows]), "latents_flip": torch.from_numpy(flips[rows]),
                   "labels": torch.from_numpy(labels[rows])}, folder / f"latents_rank{number // 2:02d}_shard{number % 2:03d}.safetensors")
        first += size
    axes = (0, 2, 3)
    torch.save({"mean": torch.from_numpy(samples.mean(axes, keepdims=True)), "std": torch.from_numpy(samples.std(axes, keepdims=True))},
               folder / "latents_stats.pt")
    return folder


def ndarray_bytes(array, encoding):
    """As the NDArray encoding of MDS lays it down: dtype and shape stand first where the encoding's name leaves them out."""
    said = encoding.split(":")[1:]
    head = b"" if said else bytes([MDS_INTS[array.dtype.name]])
    if len(said) < 2:
        head += bytes([array.ndim << 2 | 0]) + np.array(array.shape, np.uint8).tobytes()
    return head + array.tobytes()


def mds_folder(folder, columns, rows, sizes=(20, 15, 10), compress=None, ending=""):
    """Shards with these columns ``{name: encoding}`` (sorted by name) of rows ``{name: bytes}``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(columns)
    fixed = [_fixed_size(columns[name]) for name in names]
    entries, first = [], 0
    for number, size in enumerate(sizes):
        samples = []
        for row in rows[first:first + size]:
            head = b"".join(np.uint32(len(row[name])).tobytes() for name, bytes_ in zip(names, fixed) if bytes_ is None)
            samples.append(head + b"".join(row[name] for name in names))
        config = json.dumps({"column_names": names}).encode()
        offsets = np.array([0, *map(len, samples)]).cumsum().astype(np.uint32) + 4 + 4 * (size + 1) + len(config)
        content = np.uint32(size).tobytes() + offsets.astype(np.uint32).tobytes() + config + b"".join(samples)
        name, packed = f"shard.{number:05d}.mds", compress(content) if compress else None
        (folder / f"{name}{ending}").write_bytes(packed or content)
        entries.append({
            "column_encodings": [columns[name] for name in names], "column_names": names, "column_sizes": fixed,
            "compression": ending[1:] or None, "format": "mds", "hashes": [], "samples": size, "size_limit": 1 << 26, "version": 2,
            "raw_data": {"basename": name, "bytes": len(content), "hashes": {}},
            "zip_data": packed and {"basename": name + ending, "bytes": len(packed), "hashes": {}}})
        first += size
    (folder / "index.json").write_text(json.dumps({"shards": entries, "version": 2}))
    return folder


def _fixed_size(encoding):
    if encoding.count(":") == 2:
        _, kind, shape = encoding.split(":")
        return np.dtype(kind).itemsize * int(np.prod([int(axis) for axis in shape.split(",")]))
    return 8 if encoding in ("int", "int64") else None


def make(form, folder):
    """Write 45 latents of 4 x 4 x 4 in 5 classes. ``.path``, ``.options`` that a format needs, ``.expected`` (45, flips, numbers, c, h, w)
    and ``.labels`` in the order in which the tool's own training reads them."""
    labels = np.arange(IMAGES) % 5
    samples, options = numbers(IMAGES, *SHAPE), {}
    expected = samples[:, None, None]
    if form in ("edm2", "repa"):
        values = moments()
        files, expected = mean_std_files(values, labels), values[:, None]
        if form == "edm2":
            path, options = zipped(folder / "img.zip", files), {"format": "edm2"}
        else:
            path = folder / "data"
            written(path / "vae-sd", files)
            written(path / "images", {"00000/img00000000.png": b"", "dataset.json": b"{}"})
    elif form == "fast-dit":
        path = written(folder, fast_dit_files(samples, labels))
        order = [int(name[:-4]) for name in sorted(f"{number}.npy" for number in range(IMAGES))]
        expected, labels = expected[order], labels[order]
    elif form == "lightningdit":
        flips = numbers(IMAGES, *SHAPE, seed=1)
        path = lightningdit_shards(folder / "latents", samples, flips, labels)
        expected = np.stack([samples, flips], 1)[:, :, None]
    elif form == "numpy":
        path, options = folder / "latents.npy", STATED | {"holds": "samples", "labels": folder / "labels.npy"}
        np.save(path, samples)
        np.save(folder / "labels.npy", labels)
    elif form == "npz":
        path, options = folder / "latents.npz", STATED | {"holds": "mean-std"}
        np.savez_compressed(path, latents=moments().reshape(IMAGES, -1, *SHAPE[1:]), labels=labels)
        expected = moments()[:, None]
    elif form == "numpy shards":
        path, options = folder / "shards", STATED | {"holds": "samples"}
        path.mkdir()
        for number, rows in enumerate((slice(0, 40), slice(40, 45))):
            np.save(path / f"{number}.npy", samples[rows])
        np.save(path / "labels.npy", labels)
    elif form == "safetensors":
        path, options = folder / "shards", STATED | {"holds": "mean-logvar"}
        path.mkdir()
        values = moments()
        stored = np.stack([values[:, 0], 2 * np.log(values[:, 1])], 1).reshape(IMAGES, -1, *SHAPE[1:])
        for number, rows in enumerate((slice(0, 40), slice(40, 45))):
            save_file({"latents": torch.from_numpy(stored[rows].copy()), "labels": torch.from_numpy(labels[rows].copy())},
                      path / f"{number}.safetensors")
        expected = values[:, None]
    else:
        encoding = {"mds": "ndarray:float32:4,4,4", "mds free": "ndarray", "mds dtype": "ndarray:float32"}[form]
        rows = [{"x": ndarray_bytes(sample, encoding), "label": np.int64(label).tobytes(), "caption": b"a" * label}
                for sample, label in zip(samples, labels)]
        path = mds_folder(folder / "mds", {"x": encoding, "label": "int", "caption": "str"}, rows)
        options = STATED | {"holds": "samples"}
    return SimpleNamespace(path=path, options=options, expected=expected, labels=labels)


FORMS = ("edm2", "repa", "fast-dit", "lightningdit", "numpy", "npz", "numpy shards", "safetensors", "mds", "mds free", "mds dtype")
