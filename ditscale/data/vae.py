"""The encoder of latents: any diffusers ``AutoencoderKL`` or ``AutoencoderTiny``, with the same results on every rank."""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor

from ditscale.device import local_device, names, reproducible
from ditscale.errors import UserError, first_line

KINDS = ("AutoencoderKL", "AutoencoderTiny")


class Vae:
    """An autoencoder with its identity.

    Attributes:
        description: what the manifest says of it: class, hashes of config and weights, its own scale and shift, has_std.
        channels: of the images that it encodes.
    """

    def __init__(self, model, device):
        self.model, self.device = model.to(device).eval().requires_grad_(False), torch.device(device)
        config = {key: value for key, value in model.config.items() if not key.startswith("_")}
        self.channels = config["in_channels"]
        self.has_std = type(model).__name__ == "AutoencoderKL"
        self.description = {"class": type(model).__name__, "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
                            "weights_sha256": weights_sha256(model.state_dict()),
                            "scaling_factor": float(config.get("scaling_factor") or 1.0),
                            "shift_factor": float(config.get("shift_factor") or 0.0), "has_std": self.has_std}

    @torch.inference_mode()
    def moments(self, images: np.ndarray) -> Tensor:
        """Mean and std of images, as fp32 (B, 2, c, h, w) on the CPU; zeros for the std where the encoder has none.

        Shapes: images uint8 (B, C, H, W), seen by the encoder in [-1, 1].
        """
        with reproducible():
            pixels = torch.from_numpy(images).to(self.device).float() / 127.5 - 1
            if self.has_std:
                drawn_from = self.model.encode(pixels).latent_dist
                mean, std = drawn_from.mean, drawn_from.std
            else:
                mean = self.model.encode(pixels).latents
                std = torch.zeros_like(mean)
            return torch.stack([mean, std], dim=1).cpu()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] from latents as the encoder gave them, unscaled; fp32 (B, C, H, W) on the CPU."""
        with reproducible():
            return self.model.decode(latents.to(self.device)).sample.cpu()

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (c, h, w) that images of this shape are encoded to.

        Raises:
            UserError: this encoder does not take such images.
        """
        channels, height, width = image_shape
        if channels != self.channels:
            raise UserError(f"the encoder takes images of {self.channels} channels, but these have {channels}")
        config = self.model.config
        factor = 2 ** (len(config.get("encoder_block_out_channels") or config["block_out_channels"]) - 1)
        if height % factor or width % factor:
            raise UserError(f"the encoder makes one cell of {factor} x {factor} pixels, which does not divide {height} x "
                            f"{width}; {height - height % factor or factor} x {width - width % factor or factor} pixels would work")
        return config["latent_channels"], height // factor, width // factor


def load_vae(name: str, device) -> Vae:
    """The autoencoder in a local folder, or of that name on the Hugging Face hub. Nothing is unpickled.

    Raises:
        UserError: there is none, it cannot be read, or it is of another class.
    """
    import diffusers

    try:
        kind = diffusers.AutoencoderKL.load_config(name).get("_class_name")
        if kind not in KINDS:
            raise UserError(f"--vae {name} is a {kind}, not one of {', '.join(KINDS)}")
        model = getattr(diffusers, kind).from_pretrained(name, use_safetensors=True, torch_dtype=torch.float32,
                                                         low_cpu_mem_usage=False)
        return Vae(model, device)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"--vae {name}: no autoencoder that can be read; a folder with config.json and "
                        f"diffusion_pytorch_model.safetensors would work ({reason[:160]})") from None


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names and fp32 values in order of name: the same for every file format."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def checked_device(name: str | None) -> str:
    """The device of that name, for None the default.

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
