"""A trained run with damaged weights, and studies with damaged records, for every command that reads them."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

from hostile_cases import Case, specs

WEIGHTS = ("ema.safetensors", "state.json")
COMMANDS = {
    "sample": ["sample", "{run}", "o.npz", "--images", "4", "sampling_steps=2"],
    "export": ["export", "{run}", "o.safetensors"],
    "evaluate": ["evaluate", "{run}", "seed=7"],
    "ema": ["ema", "{run}", "o.safetensors", "--length", "0.1"],
}


def cases(given: Path):
    study = given / "trained" / "runs" / "s"
    train(given)
    [run] = [path for path in study.iterdir() if (path / "run.json").exists()]
    yield from _weights(run)
    yield from _records(given, study, run.name)


def train(given: Path) -> None:
    """One run with two checkpoints, each scored; the only training of the benchmark."""
    folder, spec = given / "trained", specs._launchable(given / "digits")
    folder.mkdir()
    spec["parameters"] = {"seed": {"values": [0]}}
    spec["config"]["train"] |= {"images": 256, "global_batch": 32, "checkpoint_every_images": 128, "ema_lengths": [0.05, 0.1]}
    spec["config"]["evaluation"] |= {
        "extractor_path": str(given / "digits" / "digits_cnn.safetensors"),
        "samples": 16,
        "sampling_steps": 2,
    }
    spec["config"]["objective"], spec["config"]["resources"] = (
        {"name": "baseline"},
        {"deepspeed": "zero1.json", "log_every_images": 64},
    )
    specs.write(folder, spec)
    done = subprocess.run(
        [sys.executable, "-c", "from ditscale.cli import main; main()", "launch", "spec.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the run that is to be damaged could not be trained:\n{done.stdout}{done.stderr}")


def _weights(run: Path):
    """The newest checkpoint's files damaged: refused, or the one before is taken and said so."""
    newest, rng = sorted(path.name for path in (run / "checkpoints").glob("images-*"))[-1], random.Random(2)
    files = [path.name for path in (run / "checkpoints" / newest).glob("ema*.safetensors")] + ["state.json"]
    for name in files:
        size = (run / "checkpoints" / newest / name).stat().st_size
        damages = {
            "empty": lambda data: b"",
            "half": lambda data: data[: len(data) // 2],
            "one byte short": lambda data: data[:-1],
            "text": lambda data: b"hello",
            "gone": None,
            **{
                f"byte {place}": (lambda data, place=place: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
                for place in sorted(rng.sample(range(size), 4))
            },
        }
        for kind, damage in damages.items():
            for command, words in COMMANDS.items():
                if name.startswith("ema-") != (command == "ema") and name != "state.json":
                    continue  # a file that this command does not read

                def make(folder, name=name, damage=damage, words=words):
                    shutil.copytree(run, folder / "run", symlinks=True)
                    path = folder / "run" / "checkpoints" / newest / name
                    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
                    return [word.format(run="run") for word in words]

                warned = lambda folder, code, said: (
                    "" if code or "warning" in said.lower() else "damaged weights were taken without a word"
                )
                yield Case(f"weights/{command} with {name} {kind}", make, "either", None if name == "state.json" else warned)


def _records(given: Path, study: Path, run: str):
    """run.json, status.json, metrics and evaluations: keys gone, values of another type, half lines, other bytes."""
    commands = {
        "status": ["status", "spec.yaml"],
        "collect": ["collect", "runs/s", "--out", "t.csv"],
        "plan": ["plan", "spec.yaml"],
        "launch": ["launch", "spec.yaml", "--launcher", "print"],
        "compare": ["compare", f"runs/s/{run}", f"runs/s/{run}"],
        "training_compute": ["analysis/training_compute.py", "runs/s", "--out", "out", "--format", "png"],
    }
    for name in ("run.json", "status.json", "metrics.jsonl", "evals.jsonl"):
        text = (study / run / name).read_text()
        records = [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else json.loads(text)
        first = records[0] if isinstance(records, list) else records
        join = lambda new: "\n".join(map(json.dumps, [new, *records[1:]])) + "\n" if isinstance(records, list) else json.dumps(new)
        changes = {
            "empty": "",
            "half": text[: len(text) // 2],
            "list": "[]\n",
            "number": "3\n",
            "null": "null\n",
            "empty object": "{}\n",
            "zeros": "\0\0\n",
            "text": "hello\n",
            **{f"without {key}": join({k: v for k, v in first.items() if k != key}) for key in first},
            **{f"{key}={value!r}": join({**first, key: value}) for key in first for value in (None, "x", [], -1)},
        }
        for number, (kind, changed) in enumerate(changes.items()):
            chosen = list(commands)[number % 2 :: 2] if "=" in kind else list(commands)
            for command in chosen:

                def make(folder, name=name, changed=changed, command=command):
                    shutil.copytree(study.parent.parent, folder, dirs_exist_ok=True, symlinks=True)
                    (folder / "runs" / "s" / run / name).write_text(changed)
                    return commands[command]

                yield Case(f"records/{command} with {name} {kind}", make, may_leave=lambda name: name.startswith(("out/", "runs/")))
