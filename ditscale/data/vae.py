"""The encoder of latents: an autoencoder of diffusers with its identity, and the same results on every rank."""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor

from ditscale.data.autoencoders.files import open_autoencoder, to_stderr
from ditscale.data.autoencoders.kinds import kind_of_model
from ditscale.device import local_device, names, reproducible
from ditscale.errors import UserError, count, first_line

ASKED = ("which it does not say and its shapes do not tell: Stable Diffusion --scale 0.18215 --shift 0, SDXL 0.13025 and 0, "
         "Stable Diffusion 3 1.5305 and 0.0609, FLUX.1 0.3611 and 0.1159")


class Vae:
    """An autoencoder with its identity.

    Attributes:
        description: what the manifest says about it: class, hashes of config and weights, its own scale and shift, has_std.
        channels: of the images that it encodes.
        latent_channels: of their latents, as a model sees them.
        says_scale: whether its files say scale and shift; a single weights file may not.
    """

    def __init__(self, model, device, *, name: str = "the autoencoder", says_scale: bool = True):
        self.model, self.device, self.name, self.says_scale = model.to(device).eval().requires_grad_(False), torch.device(device), name, says_scale
        self.kind = kind_of_model(model, f"--vae {name}")
        self.channels, self.latent_channels, self.has_std = self.kind.image_channels, self.kind.channels, self.kind.has_std
        config = json.dumps(self.kind.config, sort_keys=True)
        self.description = {"class": type(model).__name__, "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
                            "weights_sha256": weights_sha256(model.state_dict()), "scaling_factor": self.kind.scale,
                            "shift_factor": self.kind.shift, "has_std": self.has_std}

    def normalize_by(self, scale, shift) -> None:
        """Use this scale and shift (one number, or one per channel) if its file states none.

        Raises:
            UserError: its file states them, or it does not and none are given, or they have another number of channels.
        """
        if self.says_scale:
            if scale is not None or shift is not None:
                raise UserError(f"--scale, --shift: --vae {self.name} states them: {self.kind.scale} and {self.kind.shift}; leave them out. "
                                "data.latent_scale and data.latent_shift of a study take others")
            return
        if scale is None or shift is None:
            raise UserError(f"--vae {self.name}: give --scale and --shift, {ASKED}")
        for option, values in (("--scale", scale), ("--shift", shift)):
            if isinstance(values, list) and len(values) not in (1, self.latent_channels):
                raise UserError(f"{option}: {len(values)} numbers for {self.latent_channels} channels; give one number, or one per channel")
        self.description |= {"scaling_factor": scale, "shift_factor": shift}

    @torch.inference_mode()
    def moments(self, images: np.ndarray) -> Tensor:
        """Mean and std of images, as fp32 (B, 2, c, h, w) on the CPU; the latents alone, (B, 1, c, h, w), if the encoder has no std.

        Shapes: images uint8 (B, C, H, W), seen by the encoder in [-1, 1].
        """
        with reproducible():
            pixels = torch.from_numpy(images).to(self.device).float() / 127.5 - 1
            return torch.stack(self.kind.encode(pixels), dim=1).cpu()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] from latents as the encoder gave them, unscaled; fp32 (B, C, H, W) on the CPU."""
        with reproducible():
            return self.kind.decode(latents.to(self.device)).cpu()

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (c, h, w) that images of this shape are encoded to.

        Raises:
            UserError: this encoder does not take such images.
        """
        channels, height, width = image_shape
        if channels != self.channels:
            raise UserError(f"the encoder takes images of {count(self.channels, 'channel')}, but these have {channels}")
        factor = self.kind.factor
        if height % factor or width % factor:
            raise UserError(f"the encoder makes one cell of {factor} x {factor} pixels, which does not divide {height} x "
                            f"{width}; {height - height % factor or factor} x {width - width % factor or factor} pixels would work")
        return self.latent_channels, height // factor, width // factor


def load_vae(name: str, device, *, subfolder: str | None = None, say=to_stderr) -> Vae:
    """The autoencoder of that name: a folder, a file, or a name on the Hugging Face hub; see ``autoencoders.files``.

    It runs in fp32, whatever format its weights have, so that ``force_upcast`` of SDXL's config (its activations do not fit into fp16)
    needs no attention.

    Raises:
        UserError: there is none, it cannot be read, or its class is not in ``autoencoders.kinds``.
    """
    model, says_scale = open_autoencoder(name, subfolder, say)
    return Vae(model, device, name=name if subfolder is None else f"{name}/{subfolder}", says_scale=says_scale)


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names and fp32 values in order of name: the same for every file format."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def checked_device(name: str | None) -> str:
    """The device of that name, or the default for None.

    Raises:
        UserError: this machine has no such device.
    """
    if name is None:
        return str(local_device())
    try:
        torch.zeros(1, device=name).cpu()                                      # cpu(): a "meta" device holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:       # a torch without CUDA fails an assertion
        raise UserError(f"--device {name}: cannot be used here ({first_line(error)}); "
                        f"there is {', '.join(names())}") from None
    return name
