"""Converts weights of other projects: one module per project, each with ``translate(state, heads)``; ``PEERS`` lists them.

A translation is exact: with the config keys that it returns, ditscale's model gives the peer's outputs to rounding. ``LIKES`` has the
names for users, each with that project's sampling; ``recognize.py`` finds the name from the weights if they determine it.
"""

from collections.abc import Callable
from typing import NamedTuple

from ditscale.models.peers import dit, maskdit, mdt, repa, sit
from ditscale.models.peers.backbone import Translated

__all__ = ["LIKES", "PEERS", "Like", "Translated"]

# name -> translate(state, heads) -> Translated
PEERS = {"dit": dit.translate, "maskdit": maskdit.translate, "mdt": mdt.translate, "repa": repa.translate, "sit": sit.translate}


class Like(NamedTuple):
    """A project that a user can name.

    Attributes:
        translate: one of ``PEERS``.
        title: its name in words.
        sampling: keys of ``SamplingConfig``: how its own script makes the images of its best published score, or samples by default.
        source: where these numbers are published.
        options: further arguments of ``translate``, with the option of the command line that gives each.
    """

    translate: Callable[..., Translated]
    title: str
    sampling: dict
    source: str
    options: tuple[str, ...] = ()


DDPM_250 = {"sampler": "ddpm", "sampling_steps": 250, "guidance_channels": "first3", "labels": "random"}
SDE_250 = {"sampler": "sde", "sampling_steps": 250, "sde_norm": 1.0, "sde_last": "mean", "labels": "random"}
MDT = {**DDPM_250, "guidance_scale": 3.8, "guidance_schedule": "power_cosine", "guidance_power": 4.0, "rounding": "floor"}
LATENT_SCALE = 0.18215                                                         # of all of them: Stable Diffusion's, without a shift
LATENT_CHANNELS = 4                                                            # of all of them
LIKES = {
    "dit": Like(dit.translate, "DiT", {**DDPM_250, "guidance_scale": 1.5}, "DiT's sample_ddp.py"),
    "sit": Like(sit.translate, "SiT", {**SDE_250, "guidance_scale": 1.5, "guidance_channels": "first3"},
                "SiT's sample_ddp.py SDE, with the guidance of its best FID"),
    "repa": Like(repa.translate, "REPA", {**SDE_250, "guidance_scale": 1.8, "guidance_interval": (0.0, 0.7), "rounding": "floor"},
                 "generate.py with the options of REPA's README"),
    "maskdit": Like(maskdit.translate, "MaskDiT", {"sampler": "heun", "sampling_steps": 40, "labels": "random", "rounding": "floor"},
                    "MaskDiT's generate.py, which guides only where asked to", ("decoder_heads",)),
    "mdt": Like(mdt.translate, "MDT", MDT, "MDT's image_sample.py with --cfg_cond", ("decoder_depth",)),
    "mdtv2": Like(mdt.translate, "MDTv2", MDT, "MDT's image_sample.py with --cfg_cond"),
}
