"""Converts model outputs to pixels: latents are denormalized and decoded by the VAE that encoded the training data."""

import torch
from torch import Tensor

from ditscale.data.beton import BetonFile
from ditscale.data.kinds import kind_of
from ditscale.data.latents import signed_pixels
from ditscale.data.manifest import Encoder, manifest_path, read_manifest
from ditscale.data.prepare import normalization
from ditscale.data.vae import Vae, load_vae
from ditscale.errors import UserError, count

AT_ONCE = 16                                                                   # images; decoding takes far more memory than a DiT


class LatentDecoder:
    """Converts a model's latents (B, c, h, w) to images (B, C, H, W) in [-1, 1], fp32 on the CPU."""

    def __init__(self, vae: Vae, encoder: Encoder, shift: Tensor, scale: Tensor):
        self.vae, self.encoder, self.shift, self.scale = vae, encoder, shift.to(vae.device), scale.to(vae.device)
        self.channels = vae.channels                                           # of the images
        self.name = f"{vae.description['class']} {str(vae.description['weights_sha256'])[:12]}"

    def __call__(self, latents: Tensor) -> Tensor:
        as_encoded = latents.to(self.vae.device) / self.scale + self.shift
        return torch.cat([signed_pixels(self.vae.decode(part), self.encoder) for part in as_encoded.split(AT_ONCE)])


def make_decoder(data, name: str | None, device, imported=None) -> LatentDecoder | None:
    """The decoder for a config's section ``data``; None for pixels.

    Args:
        name: of the autoencoder: a folder, or a name on the hub (``SamplingConfig.vae``).
        imported: a config's section ``imported``: without data, it says what the model makes.

    Raises:
        UserError: the data is latents and the autoencoder is missing or is not the one that made them; or it is pixels and there is
            one; or the data's manifest cannot be read on this machine.
    """
    encoder = _encoder_of(data) if imported is None else _encoder_of_imported(data, imported)
    where = data.path if imported is None else "the imported model"
    if encoder is None:
        if name:
            raise UserError(f"vae is for latents, but {where} {'holds' if imported is None else 'makes'} pixels; leave it out")
        return None
    if not name:
        which = f"its weights have the sha256 {encoder['weights_sha256'][:12]}" if encoder["weights_sha256"] else encoder["made_by"]
        raise UserError(f"{where} {'holds' if imported is None else 'makes'} latents; give vae=FOLDER, the {encoder['class']} that made them ({which})")
    vae = load_vae(name, device)
    made_by, weights = encoder["weights_sha256"], str(vae.description["weights_sha256"])
    if not made_by and vae.latent_channels != data.channels:
        raise UserError(f"vae {name} has latents with {count(vae.latent_channels, 'channel')}, but {where} has {data.channels}; "
                        f"give the one that made them ({encoder['made_by']})")
    if made_by and weights != made_by:
        raise UserError(f"vae {name} has weights with sha256 {weights[:12]}, but {data.path} was encoded with sha256 "
                        f"{made_by[:12]}; give that one")
    if made_by and vae.description["class"] != encoder["class"]:               # Wan's and Qwen-Image's weights have the same names
        raise UserError(f"vae {name} is an {vae.description['class']}, but {data.path} was encoded by an {encoder['class']}; give that one")
    return LatentDecoder(vae, encoder, *normalization(data, encoder))


def _encoder_of_imported(data, imported) -> Encoder | None:
    """As far as it is known: which autoencoder made the latents is not in a model's weights."""
    if not imported.latents:
        return None
    return {"class": "AutoencoderKL", "weights_sha256": "", "bits": "", "has_std": True, "scaling_factor": 1.0, "shift_factor": 0.0,
            "made_by": "the one of its training; released models: stabilityai/sd-vae-ft-ema"}


def _encoder_of(data) -> Encoder | None:
    """The encoder in the manifest; None for pixels. Sampling needs only this entry of the data."""
    if manifest_path(data.path).exists():
        manifest = read_manifest(data.path)
        return manifest.encoder if manifest.kind == "latents" else None
    try:
        kind = kind_of(BetonFile(data.path))
    except UserError as error:
        raise UserError(f"data.path of the run: {error}. Sampling needs the file, or only {manifest_path(data.path)}, to know "
                        "whether the model makes pixels or latents; give data.path=FILE, where either of them is") from None
    if kind == "latents":
        raise UserError(f"{manifest_path(data.path)}: no such file; it states which encoder made the latents of {data.path}")
    return None
