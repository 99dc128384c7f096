""".beton files and manifests cut short or changed, for ``data inspect --verify`` and ``launch``."""

import json
import random
import shutil
from pathlib import Path

from hostile_cases import Case, specs


def cases(given: Path):
    whole, manifest = given / "digits" / "heldout.beton", given / "digits" / "heldout.json"
    content, rng = whole.read_bytes(), random.Random(1)
    record = json.loads(manifest.read_text())

    def case(name, data, text, right, words=("data", "inspect", "a.beton", "--verify")):
        def make(folder):
            (folder / "a.beton").write_bytes(data)
            if text is not None:
                (folder / "a.json").write_text(text)
            return list(words)

        return Case(f"betons/{name}", make, right)

    yield case("whole", content, manifest.read_text(), "fine")
    yield case("empty", b"", manifest.read_text(), "refused")
    yield case("no manifest", content, None, "either")
    for cut in sorted(rng.sample(range(len(content)), 40)):
        yield case(f"cut at {cut}", content[:cut], manifest.read_text(), "refused")
    used = [place for place in range(len(content)) if content[place]]  # padding is never read
    for place in sorted([*rng.sample(used, 60), *range(0, 24, 2)]):
        changed = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        yield case(f"byte {place}", changed, manifest.read_text(), "refused")
    for key in record:
        for value in (None, -1, "x", [], {}, 10**12):
            yield case(f"manifest {key}={value}", content, json.dumps({**record, key: value}), "either")
        yield case(f"manifest without {key}", content, json.dumps({name: v for name, v in record.items() if name != key}), "either")
    for text in ("", "[", "[]", "3", "\x00"):
        yield case(f"manifest text {text!r}", content, text, "either")
    yield from _other_classes(given / "digits")


def _other_classes(digits: Path):
    """A study that says another shape or number of classes than the file holds."""
    for key, value in (
        ("classes", 1000),
        ("classes", 9),
        ("classes", 11),
        ("channels", 3),
        ("channels", 2),
        ("resolution", 16),
        ("resolution", 4),
    ):

        def make(folder, key=key, value=value):
            spec = specs._launchable(digits)
            spec["config"]["data"][key] = value
            return ["launch", specs.write(folder, spec), "--launcher", "print"]

        yield Case(f"betons/study says {key} {value}", make, "refused")
    for damage in ("cut", "gone", "folder"):

        def make(folder, damage=damage):
            spec = specs._launchable(digits)
            spec["config"]["data"]["path"] = "here.beton"
            if damage == "cut":
                (folder / "here.beton").write_bytes((digits / "train.beton").read_bytes()[:1000])
                shutil.copy(digits / "train.json", folder / "here.json")
            elif damage == "folder":
                (folder / "here.beton").mkdir()
            return ["launch", specs.write(folder, spec), "--launcher", "print"]

        yield Case(f"betons/study's data {damage}", make, "refused")
