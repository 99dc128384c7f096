"""Images, arrays, labels, archives and reference statistics, for ``data build``, ``stats`` and ``evaluate``."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from hostile_cases import Case

BUILD = ("--size", "8", "--workers", "1")
CLASSES = np.array([0, 1, 2, 0, 1, 2])


def picture(number: int, form: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(data, form)
    return data.getvalue()


def built_classes(folder: Path) -> list[int]:
    """The labels in the order of the file that a build made."""
    from ditscale.data.beton import BetonFile

    file = BetonFile(folder / "o.beton")
    return file.read("label", np.arange(file.num_samples)).reshape(-1).tolist()


def holds(labels):
    """A check: the build has these labels, in this order."""

    def check(folder, code, said):
        if code:
            return ""  # a refusal is never silent
        got = built_classes(folder)
        return "" if got == list(labels) else f"labels {got} where {list(labels)} is right"

    return check


def cases(given: Path):
    yield from _arrays()
    yield from _label_files()
    yield from _archives()
    yield from _damaged_images()
    if (given / "digits" / "digits_cnn.safetensors").exists():
        yield from _statistics(given)


def _arrays():
    """npz files; right is uint8 (N, H, W, 3) with whole labels of N."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    shapes = {
        "right": images,
        "floats": images / 255.0,
        "int64": images.astype(int),
        "no channels": images[..., 0],
        "four channels": np.concatenate([images, images[..., :1]], -1),
        "empty": images[:0],
        "one number": np.uint8(3),
        "text": np.array(["a", "b"]),
        "channels first": images.transpose(0, 3, 1, 2),
        "nan": np.full(images.shape, np.nan),
        "complex": images.astype(complex),
        "five axes": images[None],
        "bool": images > 9,
        "float16": images.astype(np.float16),
    }
    labels = {
        "right": CLASSES,
        "short": CLASSES[:4],
        "long": np.tile(CLASSES, 2),
        "floats": CLASSES + 0.5,
        "whole floats": CLASSES.astype(float),
        "nan": np.full(6, np.nan),
        "negative": CLASSES - 1,
        "text": np.array(list("abcabc")),
        "one hot": np.eye(3)[CLASSES],
        "huge": CLASSES + 10**12,
        "one based": CLASSES + 1,
        "column": CLASSES[:, None],
    }
    for image_kind, array in shapes.items():
        for label_kind, label in labels.items():
            if "right" not in (image_kind, label_kind):
                continue

            def make(folder, array=array, label=label):
                np.savez(folder / "a.npz", images=array, labels=label)
                return ["data", "build", "a.npz", "o.beton", *BUILD]

            both = image_kind == label_kind == "right"
            wrong = image_kind in (
                "floats",
                "int64",
                "empty",
                "one number",
                "text",
                "nan",
                "complex",
                "five axes",
                "float16",
            ) or label_kind in ("short", "long", "floats", "nan", "negative", "huge")
            yield Case(
                f"arrays/images {image_kind}, labels {label_kind}",
                make,
                "fine" if both else "refused" if wrong else "either",
                holds(CLASSES) if label_kind in ("right", "whole floats") else None,
            )


def _label_files():
    """A flat folder of six images with a label file; right is 0 1 2 0 1 2."""
    names, header = [f"{i}.png" for i in range(6)], "name,label\n"
    rows = lambda pairs: "".join(f"{name},{label}\n" for name, label in pairs)
    files = {
        "right": header + rows(zip(names, CLASSES)),
        "floats": header + rows(zip(names, [f"{c}.0" for c in CLASSES])),
        "no extension": header + rows(zip(range(6), CLASSES)),
        "one based": header + rows(zip(names, CLASSES + 1)),
        "other header": "filename,class\n" + rows(zip(names, CLASSES)),
        "kaggle header": "id,breed\n" + rows(zip(range(6), CLASSES)),
        "no header": rows(zip(names, CLASSES)),
        "semicolons": (header + rows(zip(names, CLASSES))).replace(",", ";"),
        "tabs": (header + rows(zip(names, CLASSES))).replace(",", "\t"),
        "names": header + rows(zip(names, "abcabc")),
        "one missing": header + rows(zip(names[:5], CLASSES)),
        "one more": header + rows(zip([*names, "9.png"], [*CLASSES, 0])),
        "twice": header + rows(zip([*names, "0.png"], [*CLASSES, 2])),
        "negative": header + rows(zip(names, CLASSES - 1)),
        "empty": "",
        "header alone": header,
        "empty label": header + rows(zip(names, [*CLASSES[:5], ""])),
        "quotes": header + rows((f'"{n}"', f'"{c}"') for n, c in zip(names, CLASSES)),
        "spaces": header + rows((n, f" {c}") for n, c in zip(names, CLASSES)),
        "huge": header + rows(zip(names, CLASSES + 10**9)),
        "gap": header + rows(zip(names, CLASSES * 5)),
        "three columns": "name,label,x\n" + "".join(f"{n},{c},1\n" for n, c in zip(names, CLASSES)),
        "crlf": (header + rows(zip(names, CLASSES))).replace("\n", "\r\n"),
        "bom": "\ufeff" + header + rows(zip(names, CLASSES)),
        "bytes": b"\xff\xfe\0n\0a",
    }
    sound = ("right", "floats", "quotes", "crlf", "bom", "three columns", "spaces", "other header", "no extension", "one more")
    for kind, text in files.items():

        def make(folder, text=text):
            (folder / "images").mkdir()
            for i, name in enumerate(names):
                (folder / "images" / name).write_bytes(picture(i))
            (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
            return ["data", "build", "images", "o.beton", "--labels", "labels.csv", *BUILD]

        wrong = kind in ("one missing", "negative", "empty", "header alone", "empty label", "bytes")
        yield Case(
            f"labels/{kind}",
            make,
            "fine" if kind == "right" else "refused" if wrong else "either",
            holds(CLASSES) if kind in sound else None,
        )
    for kind, value in {
        "right": {"labels": [[n, int(c)] for n, c in zip(names, CLASSES)]},
        "null": {"labels": None},
        "list": [1],
        "text": {"labels": "x"},
        "short": {"labels": [["0.png", 0]]},
        "floats": {"labels": [[n, c + 0.5] for n, c in zip(names, CLASSES.tolist())]},
        "bad pair": {"labels": [["0.png"]]},
        "dict": {"labels": {n: int(c) for n, c in zip(names, CLASSES)}},
    }.items():

        def make(folder, value=value):
            for i, name in enumerate(names):
                (folder / name).write_bytes(picture(i))
            (folder / "dataset.json").write_text(json.dumps(value))
            return ["data", "build", ".", "o.beton", "--labels", "dataset.json", *BUILD]

        yield Case(
            f"labels/json {kind}",
            make,
            "fine" if kind == "right" else "either" if kind in ("dict", "null") else "refused",
            holds(CLASSES) if kind == "right" else None,
        )


def _archive(form: str) -> bytes:
    """Six images in three class folders, or as WebDataset's pairs of .png and .cls."""
    data = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(data, "w") as file:
            for i, c in enumerate(CLASSES):
                file.writestr(f"c{c}/{i}.png", picture(i))
        return data.getvalue()
    with tarfile.open(fileobj=data, mode="w:gz" if form == "tar.gz" else "w") as file:
        for i, c in enumerate(CLASSES):
            parts = (
                {f"{i:05}.png": picture(i), f"{i:05}.cls": str(c).encode()} if form == "wds.tar" else {f"c{c}/{i}.png": picture(i)}
            )
            for name, content in parts.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def _archives():
    """Whole, cut short, and with one byte changed."""
    for form in ("zip", "tar", "tar.gz", "wds.tar"):
        whole = _archive(form)
        right = CLASSES if form == "wds.tar" else sorted(CLASSES)
        changes = {
            "whole": whole,
            "empty": b"",
            **{f"cut to {share:.0%}": whole[: int(len(whole) * share)] for share in np.linspace(0.05, 0.95, 19)},
        }
        for kind, content in changes.items():

            def make(folder, content=content, name=f"a.{form}"):
                (folder / name).write_bytes(content)
                return ["data", "build", name, "o.beton", *BUILD]

            yield Case(
                f"archives/{form} {kind}",
                make,
                "fine" if kind == "whole" else "either" if "tar" in form and "cut" in kind else "refused",
                (
                    lambda folder, code, said, right=right: (
                        "" if code or sorted(built_classes(folder)) == sorted(right) else f"labels {built_classes(folder)}"
                    )
                )
                if kind == "whole"
                else None,
            )


def _damaged_images():
    """One image of six that cannot be read: refused, or left out and counted with --on-error skip."""
    for form, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
        whole = picture(3, form)
        for kind, content in {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "text": b"not an image",
            "zeros": bytes(len(whole)),
            "header alone": whole[:16],
        }.items():
            for skip in (False, True):

                def make(folder, content=content, suffix=suffix, form=form, skip=skip):
                    for i, c in enumerate(CLASSES):
                        (folder / "images" / f"c{c}").mkdir(parents=True, exist_ok=True)
                        (folder / "images" / f"c{c}" / f"{i}.{suffix}").write_bytes(content if i == 3 else picture(i, form))
                    return ["data", "build", "images", "o.beton", *BUILD, *(["--on-error", "skip"] if skip else [])]

                count = lambda folder, code, said: (
                    "" if len(built_classes(folder)) == 5 else f"{len(built_classes(folder))} images where 5 can be read"
                )
                yield Case(
                    f"damaged/{suffix} {kind}{' skip' if skip else ''}",
                    make,
                    "fine" if skip else "refused",
                    count if skip else None,
                    may_leave=lambda name: name.startswith(".o.beton.partial/"),  # what a next build goes on with
                )


def _statistics(given: Path):
    """References of another form than a mean and a covariance; ``evaluate`` of a folder of images against them."""
    size, rng = 64, np.random.default_rng(0)
    root = rng.standard_normal((200, size))
    mean, covariance = root.mean(0), np.cov(root, rowvar=False)
    skew = covariance + np.triu(np.ones((size, size)), 1)
    changes = {
        "text": {"mu": mean, "sigma": np.array(["a"] * size)},
        "no sigma": {"mu": mean},
        "empty": {},
        "nan mean": {"mu": mean * np.nan, "sigma": covariance},
        "inf": {"mu": mean, "sigma": covariance * np.inf},
        "complex": {"mu": mean, "sigma": covariance * 1j},
        "skew": {"mu": mean, "sigma": skew},
        "negative": {"mu": mean, "sigma": -covariance},
        "other size": {"mu": mean[:9], "sigma": covariance[:9, :9]},
        "not square": {"mu": mean, "sigma": covariance[:, :9]},
        "column": {"mu": mean[:, None], "sigma": covariance},
        "integers": {"mu": mean.astype(int), "sigma": covariance.astype(int) - 5},
        "one number": {"mu": 1.0, "sigma": 2.0},
    }
    for kind, arrays in changes.items():

        def make(folder, arrays=arrays):
            (folder / "images").mkdir()
            for i in range(8):
                Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)).save(
                    folder / "images" / f"{i}.png"
                )
            np.savez(folder / "ref.npz", **arrays)
            return [
                "evaluate",
                "images",
                "metric=fd_digits_cnn",
                f"extractor_path={given / 'digits' / 'digits_cnn.safetensors'}",
                "reference_path=ref.npz",
            ]

        yield Case(f"statistics/{kind}", make, "refused")
