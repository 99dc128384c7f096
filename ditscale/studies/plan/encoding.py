"""The one-off cost that a study of latents has beside its runs: each image is encoded as it is and mirrored."""

from ditscale.config import RunConfig
from ditscale.cost.encoding import encoder_macs
from ditscale.cost.hardware import Machine
from ditscale.cost.throughput import ASSUMED
from ditscale.data.manifest import Manifest, read_manifest
from ditscale.errors import UserError
from ditscale.studies.spec.spec import PlannedRun

WAYS = 2                                                                       # as it is, and mirrored


def encoding_lines(runs: list[PlannedRun], machine: Machine) -> list[str]:
    """A line for each file of latents that these runs read, there or not; none for pixels."""
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
        return f"{begins}what their encoder costs is not known; Stable Diffusion's (evaluation.vae) is."
    one = f"{WAYS} x {macs / 1e9:.4g} GMACs (each image is encoded as it is and mirrored)"
    if manifest is None:
        return f"{begins}{one} = {2 * WAYS * macs:.3g} FLOPs an image; the file is not there yet."
    flops = 2 * WAYS * macs * manifest.samples
    hours = flops / (ASSUMED[machine.kind].sample_utilisation * machine.peak_flops) / 3600
    return (f"{begins}{manifest.samples:,} images x {one} = {flops:.3g} FLOPs, about {hours:,.3g} accelerator-hours; "
            "the file is there, so they are spent.")


def _manifest(path: str) -> Manifest | None:
    try:
        return read_manifest(path)
    except UserError:
        return None                                                            # launch says what is wrong with a file
