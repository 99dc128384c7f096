"""Study files, overrides, sites, DeepSpeed files and options of ``plan``."""

import copy
import json
import random
from pathlib import Path

import yaml

from ditscale.config import resolve
from ditscale.dotted import dotted_keys, set_key
from hostile_cases import Case

CONFIG = {
    "seed": 0,
    "model": {"name": "DiT-atto/4"},
    "data": {"name": "digits", "path": "train.beton", "resolution": 8, "channels": 1, "classes": 10},
    "formulation": {"name": "flow"},
    "objective": {"name": "masked"},
    "train": {"images": 640, "global_batch": 64, "lr": 1e-3, "ema_decay": 0.9, "checkpoint_every_images": 320},
    "evaluation": {"extractor_path": "cnn.safetensors", "reference_path": "heldout.beton", "samples": 64, "sampling_steps": 3},
    "resources": {"deepspeed": "zero1.json"},
}
SPEC = {
    "version": 1,
    "name": "s",
    "metric": {"name": "fd_digits_cnn"},
    "config": CONFIG,
    "parameters": {"seed": {"values": [0, 1]}},
}
STRATEGY = {"zero_optimization": {"stage": 1}}
WILD = (None, "", "x", "1e3x", -1, 0, 2.5, 1e308, float("nan"), float("inf"), [], {}, [1], {"a": 1}, True, 10**30, "../..", "a\nb")
NOT_NUMBERS = ("x", "1e3x", {"a": 1}, float("nan"))
SITE = {"name": "c", "launcher": "slurm", "gpus_per_node": 8, "partition": "gpu", "time": 60}
STRATEGY_KEYS = (
    "zero_optimization",
    "zero_optimization.stage",
    "zero_optimization.offload_optimizer",
    "zero_optimization.offload_optimizer.device",
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.overlap_comm",
    "zero_optimisation",
    "bf16",
    "bf16.enabled",
    "fp16",
    "gradient_clipping",
    "gradient_cliping",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "optimizer",
    "scheduler",
    "communication_data_type",
    "steps_per_print",
    "wall_clock_breakdown",
    "prescale_gradients",
    "zero_optimization.contiguous_gradient",
)
REFUSED_STRATEGIES = (
    "zero_optimisation",
    "gradient_cliping",
    "zero_optimization.contiguous_gradient",
)  # misspelt, whatever the value


def write(folder: Path, spec, strategy=None, site=None) -> str:
    """A study file, with the files that it names, as far as ``plan`` reads them."""
    text = spec if isinstance(spec, (str, bytes)) else yaml.safe_dump(spec)
    (folder / "spec.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "zero1.json").write_text(strategy if isinstance(strategy, str) else json.dumps(strategy or STRATEGY))
    if site is not None:
        (folder / "site.yaml").write_text(site if isinstance(site, str) else yaml.safe_dump(site))
    return "spec.yaml"


def cases(given: Path):
    digits = given / "digits"
    (digits / "cnn.safetensors").write_bytes(b"")  # looked for, not opened, before a start
    yield from _values()
    yield from _sections()
    yield from _overrides()
    yield from _texts()
    yield from _options()
    yield from _sites(digits)
    yield from _strategies(digits)


def _values():
    """Each key of the config with each wild value."""
    sound = dotted_keys(resolve(CONFIG, "sound").model_dump())
    for key, usual in sound.items():
        is_number = isinstance(usual, (int, float)) and not isinstance(usual, bool)
        for value in WILD:

            def make(folder, key=key, value=value):
                spec = copy.deepcopy(SPEC)
                if key == "seed":
                    spec.pop("parameters")
                set_key(spec["config"], key, value)
                return ["plan", write(folder, spec)]

            wrong = is_number and any(value is bad or value == bad for bad in NOT_NUMBERS)
            yield Case(f"specs/{key}={value!r:.20}", make, "refused" if wrong else "either")


def _sections():
    """Each section of the study file with each wild value."""
    for key in (
        "version",
        "name",
        "metric",
        "metric.name",
        "metric.goal",
        "config",
        "parameters",
        "parameters.seed",
        "parameters.seed.values",
        "include",
        "exclude",
        "bundles",
        "limits",
        "limits.runs",
        "phases",
        "runs_dir",
        "budgets",
        "isoflop",
        "unknown",
    ):
        for value in WILD:

            def make(folder, key=key, value=value):
                spec = copy.deepcopy(SPEC)
                set_key(spec, key, value)
                return ["plan", write(folder, spec)]

            yield Case(f"sections/{key}={value!r:.20}", make, "refused" if key == "unknown" else "either")


def _overrides():
    for key in ("train.lr", "model.name", "seed", "objective.name", "data.latent_scale", "nonsense", "train", ""):
        for text in ("", "x", "[", "[]", "{}", "nan", "-1", "0", "1e3", "!!int x", "'", "\t", "a: b", "~"):
            yield Case(
                f"overrides/{key}={text}",
                lambda folder, text=f"{key}={text}": ["plan", write(folder, SPEC), "--", text],
                "refused" if key in ("nonsense", "") else "either",
            )


def _texts():
    """Study files cut short or with one byte changed."""
    text, rng = yaml.safe_dump(SPEC).encode(), random.Random(0)
    for cut in range(0, len(text), max(1, len(text) // 60)):
        yield Case(f"texts/cut at {cut}", lambda folder, cut=cut: ["plan", write(folder, text[:cut])])
    for _ in range(90):
        place, byte = rng.randrange(len(text)), rng.choice(b":{}[]&*!%@|>\t\0\"'#-\xff\xc3")
        changed = text[:place] + bytes([byte]) + text[place + 1 :]
        yield Case(f"texts/byte {place} is {byte:#x}", lambda folder, changed=changed: ["plan", write(folder, changed)])


def _options():
    for option, values, right in (
        (
            "--on",
            (
                "",
                "H100",
                "H100:0",
                "H100:-1",
                "H100:8",
                "H100:x",
                "H100:999999999999",
                "H200:8",
                "nope:8",
                "cpu:2",
                ":8",
                "H100:1e3",
            ),
            {"H100:8": "fine"},
        ),
        (
            "--price",
            ("", "x", "-1", "nan", "inf", "0", "1e308", "2.5"),
            {"2.5": "fine", "-1": "refused", "x": "refused", "nan": "refused"},
        ),
        ("--network", ("", "x", "-1", "nan", "inf", "0", "400"), {"-1": "refused", "x": "refused", "nan": "refused"}),
        ("--csv", ("out.csv", "no/such/folder/out.csv", ".", ""), {"out.csv": "fine", "no/such/folder/out.csv": "refused"}),
    ):
        for value in values:
            on = [] if option == "--on" else ["--on", "H100:8"]
            yield Case(
                f"options/{option} {value}",
                lambda folder, words=[*on, option, value]: ["plan", write(folder, SPEC), *words],
                right.get(value, "either"),
            )


def _launchable(digits: Path) -> dict:
    spec = copy.deepcopy(SPEC)
    spec["config"]["data"]["path"] = str(digits / "train.beton")
    spec["config"]["evaluation"] |= {
        "extractor_path": str(digits / "cnn.safetensors"),
        "reference_path": str(digits / "heldout.beton"),
    }
    return spec


def _sites(digits: Path):
    for key in (
        "name",
        "launcher",
        "partition",
        "account",
        "qos",
        "gpus_per_node",
        "gres",
        "cpus_per_task",
        "time",
        "array_limit",
        "runs_at_once",
        "extra_sbatch",
        "setup",
        "environment",
        "price_per_gpu_hour",
        "hostfile",
        "container",
        "unknown",
    ):
        for value in WILD[:12]:

            def make(folder, key=key, value=value):
                return [
                    "launch",
                    write(folder, _launchable(digits), site={**SITE, key: value}),
                    "--site",
                    "site.yaml",
                    "--launcher",
                    "print",
                ]

            yield Case(f"sites/{key}={value!r:.20}", make, "refused" if key == "unknown" else "either")


def _strategies(digits: Path):
    for key in STRATEGY_KEYS:
        for value in (None, "x", "5e8", -1, 2.5, [], {}, True, "auto", {"device": "disk"}):

            def make(folder, key=key, value=value):
                strategy = copy.deepcopy(STRATEGY)
                set_key(strategy, key, value)
                return ["launch", write(folder, _launchable(digits), strategy=strategy), "--launcher", "print"]

            yield Case(f"strategies/{key}={value!r:.20}", make, "refused" if key in REFUSED_STRATEGIES else "either")
    for text in ("", "[", "[]", "3", "null", '{"zero_optimization": {"stage": 1}', '{"a": 1, "a": 2}', "\ufeff{}"):
        yield Case(
            f"strategies/text {text!r:.20}",
            lambda folder, text=text: ["launch", write(folder, _launchable(digits), strategy=text), "--launcher", "print"],
            "refused" if text in ("", "[", "[]", "3", "null") else "either",
        )
