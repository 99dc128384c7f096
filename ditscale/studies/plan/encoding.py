"""The one-time cost of a study's latents: each image is encoded unchanged and mirrored."""

import json
from pathlib import Path

from ditscale.config import RunConfig
from ditscale.cost.hardware import Machine
from ditscale.cost.throughput import ASSUMED
from ditscale.data.manifest import Manifest, read_manifest
from ditscale.errors import UserError
from ditscale.studies.spec.spec import PlannedRun

WAYS = {"stored": (2, "unchanged and mirrored"), "none": (1, "unchanged"), "random": (1, "unchanged or mirrored")}     # by the flips stored
# Names of the encoder with the MACs below: Stable Diffusion's, with 83.7 M parameters including the decoder.
STABLE_DIFFUSION = {"_class_name": "AutoencoderKL", "in_channels": 3, "latent_channels": 4, "block_out_channels": [128, 256, 512, 512],
                    "layers_per_block": 2}
NAMES = ("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema")            # on the hub; a folder has the name in its config.json
MACS_PER_CELL = 132_116_544                                                    # convolutions and projections
ATTENTION_WIDTH = 512                                                          # of the single attention over all cells


def encoding_lines(runs: list[PlannedRun], machine: Machine) -> list[str]:
    """A line for each file of latents that these runs read, whether it exists or not; none for pixels."""
    files = {(config.data.path, config.evaluation and config.evaluation.vae): config for config in (planned.config for planned in runs)}
    return [line for config in files.values() if (line := _line(config, machine))]


def _line(config: RunConfig, machine: Machine) -> str:
    data, vae = config.data, config.evaluation.vae if config.evaluation else None
    manifest = _manifest(data.path)
    is_latents = manifest.kind == "latents" if manifest else bool(vae or data.latent_scale)
    if not is_latents:
        return ""
    begins = f"Latents of {data.path}, once for all runs: "
    macs = encoder_macs(vae, data.resolution**2)
    if macs is None:
        return f"{begins}the cost of their encoder is unknown; only Stable Diffusion's (evaluation.vae) is known."
    ways, words = WAYS[manifest.encoder.get("flips", "stored") if manifest and manifest.encoder else "stored"]
    one = f"{ways} x {macs / 1e9:.4g} GMACs (each image is encoded {words})"
    if manifest is None:
        return f"{begins}{one} = {2 * ways * macs:.3g} FLOPs per image; the file does not exist yet."
    flops = 2 * ways * macs * manifest.samples
    hours = flops / (ASSUMED[machine.kind].sample_utilization * machine.peak_flops) / 3600
    return (f"{begins}{manifest.samples:,} images x {one} = {flops:.3g} FLOPs, about {hours:,.3g} accelerator-hours; "
            "the file exists, so this is already spent.")


def _manifest(path: str) -> Manifest | None:
    try:
        return read_manifest(path)
    except UserError:
        return None                                                            # launch reports what is wrong with a file


def stable_diffusion_macs(cells: int) -> int:
    """MACs of Stable Diffusion's encoder for one image with this number of latent cells (256 px: 32 x 32), counted as for a DiT.

    136.4 G at 256 px, 558.3 G at 512 px: more than a forward of DiT-XL/2 (118.6 G and 524.6 G). A test recounts them.
    """
    return MACS_PER_CELL * cells + 2 * ATTENTION_WIDTH * cells**2


def encoder_macs(vae: str | None, cells: int) -> int | None:
    """MACs of the encoder with this hub name or folder; None if unknown."""
    return stable_diffusion_macs(cells) if vae in NAMES or (vae and _is_stable_diffusion(Path(vae))) else None


def _is_stable_diffusion(folder: Path) -> bool:
    paths = [folder / "config.json", folder / "vae" / "config.json"]           # of an autoencoder, of a pipeline
    try:
        config = json.loads(next((path for path in paths if path.is_file()), paths[0]).read_text())
        return all(config.get(key) == value for key, value in STABLE_DIFFUSION.items()) and config.get("mid_block_add_attention", True)
    except (OSError, ValueError, AttributeError):
        return False
