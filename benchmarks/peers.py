"""Published step times and memory against the roofline: how much of the bound each peer reaches.

    python benchmarks/peers.py [--markdown]

Nothing is measured here. The times are those of ditscale/published/*.csv (and, for SR-DiT, of its README), the bounds those of
ditscale/cost/roofline.py for the peer's model, batch, precision and device. What a peer computes and is not counted (text, experts,
a teacher) makes its bound lower, never higher. Peaks of TPUs: Google's documentation of v3 (123 TFLOP/s in bf16 and 900 GB/s a chip, two
cores) and v4 (275 TFLOP/s, 1,228 GB/s).
"""

import argparse
import csv
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ditscale.cost.hardware import Machine, named_machine
from ditscale.cost.roofline import PRODUCTS, Operation, Roofline, bound_of, model_operations, update_operations
from ditscale.models.macs import Backbone, make_backbone, plain_card
from ditscale.models.sizes import ModelName
from ditscale.objectives import VARIANTS
from ditscale.studies.plan.encoding import stable_diffusion_macs

PUBLISHED = Path(__file__).parents[1] / "ditscale" / "published"
HALF = ("bf16",)


class Tpu(Machine):
    """Chips of Google's."""

    @property
    def memory_bandwidth(self) -> float:
        return {"TPU v3": 0.9e12, "TPU v4": 1.228e12}[self.name]


TPUS = {"TPU v3-256": Tpu("tpu", "TPU v3", 128, 123e12), "TPU v4-64": Tpu("tpu", "TPU v4", 32, 275e12)}


@dataclass(frozen=True)
class Peer:
    """A published row, and what one device computes in its step.

    ``step`` gives the operations for so many images; ``memory`` the bytes of one device, where the settings are known.
    """

    name: str
    device: str
    devices: int
    batch: int
    steps_per_second: float
    precision: str
    step: Callable[[int], list[Operation]]
    memory_gb: float | None = None
    memory: Callable[[int], float] | None = None
    note: str = ""

    @property
    def machine(self) -> Machine:
        return TPUS[self.device] if self.device in TPUS else named_machine({"H800": "H100"}.get(self.device, self.device))

    @property
    def bound(self) -> Roofline:
        return Roofline(bound_of(self.step(self.batch // self.devices), self.machine))

    @property
    def reached(self) -> float:
        """Bound / published time: 1 would leave nothing on the table."""
        return self.bound.bound_seconds * self.steps_per_second

    @property
    def memory_ratio(self) -> float | None:
        """Counted / published memory of one device."""
        return self.memory(self.batch // self.devices) / (1e9 * self.memory_gb) if self.memory else None


def published(file: str, **wanted: str) -> dict[str, str]:
    """The one row with these values; rows that repeat a speed count once."""
    with open(PUBLISHED / f"{file}.csv", newline="") as lines:
        found = [row for row in csv.DictReader(lines) if all(row[name] == value for name, value in wanted.items())]
    if len({(row["steps_per_s"], row["memory_gb"], row["gpu_hours"]) for row in found}) != 1:
        raise SystemExit(f"{file}.csv has {len(found)} rows with {wanted}")
    return found[0]


def backbone(size: str, patch: int = 2, resolution: int = 32, channels: int = 4, block: str = "adaln_zero") -> Backbone:
    return make_backbone(ModelName(size, patch), resolution=resolution, channels=channels, classes=1000, block=block)


def training(model: Backbone, precision: str, *, ratio: float = 1.0, recomputed: bool = False, shards: int = 1,
             more: Callable[[int], list[Operation]] = lambda images: []) -> Callable[[int], list[Operation]]:
    """A plain loop: forward, backward, AdamW and one average over all parameters."""
    parameters = plain_card(model).parameters

    def step(images: int) -> list[Operation]:
        operations = [one.times(ratio) for one in model_operations(model, images, precision, recomputed=recomputed)]
        return operations + update_operations(parameters, "fp32", state_bytes=8, averages=1, shards=shards) + more(images)
    return step


def encoding(precision: str) -> Callable[[int], list[Operation]]:
    """Stable Diffusion's encoder in each step, its products alone."""
    return lambda images: [Operation("encoder", 2 * images * stable_diffusion_macs(32 * 32), 0, precision)]


def variant_ratio(name: str, model: Backbone) -> float:
    """Trained MACs to the plain DiT's."""
    card = VARIANTS[name].model_validate({"name": name}).card(model)
    return sum(card.trained_macs_by_part.values()) / sum(plain_card(model).macs_by_part.values())


def skips(model: Backbone, count: int) -> Callable[[int], list[Operation]]:
    """U-ViT's long skips: a product from twice the width in the second half's blocks, forward and backward."""
    def operations(images: int) -> list[Operation]:
        tokens, width = images * (model.tokens + model.added_tokens), model.width
        moved = 2 * (3 * tokens * width + 2 * width * width)
        return [Operation(PRODUCTS, 3 * count * 4 * tokens * width * width, 3 * count * moved, "bf16")]
    return operations


def loop_memory(model: Backbone, *, kept: float, weights: int = 0, recomputed: bool = False, state_bytes: int = 20, cast: int = 2) -> Callable[[int], float]:
    """Bytes of a plain PyTorch loop in mixed precision (or fp32): parameters, what autograd keeps, and in one block its gradients.

    Args:
        kept: bytes a block keeps of a token for each unit of width.
        weights: bytes of an attention weight that is kept, 0 with a fused kernel.
        recomputed: blocks keep their input in fp32, and one block at a time all of it.
        state_bytes: of a parameter: weight, gradient, Adam's two moments and the average are 20, DDP's buckets 4 more.
        cast: bytes of the copy of the weights that autocast keeps.
    """
    dims, tokens = model.model.dims, model.tokens + model.added_tokens
    block = tokens * dims.hidden_size * kept + dims.num_heads * tokens**2 * weights
    of_image = block + (dims.depth * tokens * dims.hidden_size * 4 + block if recomputed else dims.depth * block)
    return lambda images: images * of_image + (state_bytes + cast) * plain_card(model).parameters


def peers() -> list[Peer]:
    """All published steps whose model and device are known."""
    xl, vit = backbone("XL"), backbone("29x1152", block="in_context")
    found = []

    def add(name, row, precision, step, devices, device, **more):
        found.append(Peer(name, device, devices, int(row["batch_size"]), float(row["steps_per_s"]), precision, step, **more))

    # Bytes a block keeps per token and unit of width, by what autograd keeps under autocast: a norm's fp32 input (4), its fp32 result where it
    # is modulated (4), the product's half input (2), q, k, v (6), attention's result (2), a branch before its gate (2); MLP: hidden layer
    # before and after GELU (8 each). In fp32 all are 4 a number, and no copies.
    amp, plain_amp, single = 48, 36 + 2, 72
    for model, precision, more in (("DiT-XL/2 grad ckpt only", "tf32", encoding("tf32")),
                                   ("DiT-XL/2 + mixed precision", "bf16", encoding("bf16")),
                                   ("DiT-XL/2 + cached VAE features", "bf16", lambda images: [])):
        row = published("other_models_and_costs", model=model)
        memory = {} if "cached" not in model else {"memory_gb": float(row["memory_gb"]), "memory": loop_memory(xl, kept=amp, weights=6, recomputed=True)}
        add(f"fast-DiT, {model.removeprefix('DiT-XL/2 ').removeprefix('+ ')}", row, precision,
            training(xl, precision, recomputed=True, more=more), 1, "A100", **memory)
    for model, weights, recomputed in (("U-ViT-H/2 no ckpt, no xformers", 6, False), ("U-ViT-H/2 xformers", 0, False),
                                       ("U-ViT-H/2 xformers + grad ckpt", 0, True)):
        row = published("other_models_and_costs", model=model)
        add(model.replace("no ckpt, no xformers", "plain"), row, "bf16", training(vit, "bf16", recomputed=recomputed, more=skips(vit, 14)), 1, "A100",
            memory_gb=float(row["memory_gb"]), memory=loop_memory(vit, kept=plain_amp, weights=weights, recomputed=recomputed))
    for batch in ("256", "1024"):
        for model, precision, ratio in (("DiT-XL/2", "tf32", 1.0), ("MDT-XL/2", "tf32", variant_ratio("mdt", xl)),
                                        ("MaskDiT-XL/2 (TF32)", "tf32", variant_ratio("masked", xl)),
                                        ("MaskDiT-XL/2 (AMP fp16)", "bf16", variant_ratio("masked", xl))):
            row = published("maskdit", model=model, batch_size=batch, resolution="256", source="MaskDiT README figures bar_speed_256 / bar_mem_256")
            memory = {"memory_gb": float(row["memory_gb"]), "memory": loop_memory(xl, kept=single, weights=4, state_bytes=24, cast=0)} \
                if model == "DiT-XL/2" else {}
            add(f"MaskDiT's bars, {model}", row, precision, training(xl, precision, ratio=ratio), 8, "A100", **memory)
    for size in ("B", "L", "XL"):
        for family in ("SiT", "DiT"):
            row = published("sit_repa_sra_tread", source="SRA 2505.02831 Table 7", model=f"{family}-{size}/2")
            memory = {"memory_gb": float(row["memory_gb"]), "memory": loop_memory(xl, kept=amp, state_bytes=24)} if size == "XL" else {}
            add(f"SRA's table, {family}-{size}/2", row, "bf16", training(backbone(size), "bf16"), 8, "A100", **memory)
    vit_b = backbone("B", block="in_context")                                  # DINOv2-B sees 257 tokens of width 768 in 12 blocks
    row = published("sit_repa_sra_tread", source="REPA 2410.06940 Table 7", model="SiT-XL/2 + REPA", train_steps_k="400")
    add("REPA, SiT-XL/2", row, "bf16", training(xl, "bf16", more=lambda images: [
        replace(one, kind="encoder") for one in model_operations(vit_b, images, "bf16", backward=False)]), 8, "H100")
    add("DiT-XL/2, its paper", published("other_models_and_costs", source="DiT 2212.09748 sec 4 Compute"), "bf16",
        training(xl, "bf16", shards=128), 128, "TPU v3-256")
    for model in ("SiT-XL/2", "DiT-XL/2"):
        row = published("sit_repa_sra_tread", source="SiT 2401.08740 App. E", model=model)
        add(f"{model}, SiT's paper", row, "bf16", training(xl, "bf16", shards=32), 32, "TPU v4-64")
    return found + whole_runs()


def whole_runs() -> list[Peer]:
    """Peers that print the hours of a run: its average step."""
    light, micro = published("other_models_and_costs", source="LightningDiT README"), published("other_models_and_costs", model="MicroDiT_XL_2, 22M real")
    small, large = (training(backbone("28x1024", resolution=side), "bf16", shards=8) for side in (16, 32))  # of 8 x 8 and 16 x 16 kept tokens
    early, late = 280 / 335, 55 / 335

    def micro_step(images: int) -> list[Operation]:
        return [one.times(early) for one in small(images)] + [one.times(late) for one in large(images)]

    return [Peer("LightningDiT-XL/1", "H800", 8, int(light["batch_size"]), _rate(light, 8), "bf16", training(backbone("XL", 1, 16, 32), "bf16")),
            Peer("MicroDiT XL/2", "H100", 8, int(micro["batch_size"]), _rate(micro, 8), "bf16", micro_step,
                 note="blocks of width 1024 on the 25 % of tokens that are kept; no text, no experts, no mixer"),
            Peer("SR-DiT, SiT-B/1", "H100", 8, 256, 400e3 / (15 * 3600), "bf16", training(backbone("B", 1, 16, 32), "bf16", ratio=(4 + 8 / 4) / 12),
                 note="15 h for 400K steps (README); 8 of 12 blocks on a quarter of the tokens")]


def _rate(row: dict[str, str], devices: int) -> float:
    return 1e3 * float(row["train_steps_k"]) * devices / (3600 * float(row["gpu_hours"]))


def reached_in_half(found: list[Peer]) -> float:
    """The median share of the bound that peers reach on GPUs in half precision: what a plan expects."""
    return statistics.median(peer.reached for peer in found if peer.precision == "bf16" and peer.device not in TPUS)


def markdown(found: list[Peer]) -> str:
    lines = ["| peer | device | batch | products in | bound | published | reached | limited by | memory counted / published |",
             "| --- | --- | ---: | --- | ---: | ---: | ---: | --- | ---: |"]
    for peer in found:
        memory = "" if peer.memory is None else f"{peer.memory_ratio * peer.memory_gb:.1f} / {peer.memory_gb:.1f} GB"
        lines.append(f"| {peer.name} | {peer.device}{'' if peer.device in TPUS else f' x {peer.devices}'} | {peer.batch:,} | "
                     f"{'half' if peer.precision in HALF else peer.precision} | {1e3 * peer.bound.bound_seconds:,.0f} ms | "
                     f"{1e3 / peer.steps_per_second:,.0f} ms | {peer.reached:.0%} | {peer.bound.limit} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="the table of docs/roofline.md")
    parser.add_argument("--tiny", action="store_true", help="the same: nothing is measured")
    options = parser.parse_args()
    found = peers()
    if options.markdown:
        print(markdown(found))
        return
    print(json.dumps({"benchmark": "peers", "tiny": options.tiny, "median_reached_in_half_precision": round(reached_in_half(found), 3),
                      "peers": [{"peer": peer.name, "bound_ms": round(1e3 * peer.bound.bound_seconds, 2), "published_ms": round(1e3 / peer.steps_per_second, 1),
                                 "reached": round(peer.reached, 3), "limit": peer.bound.limit,
                                 "memory_ratio": peer.memory_ratio and round(peer.memory_ratio, 3), "note": peer.note} for peer in found]}))


if __name__ == "__main__":
    main()
