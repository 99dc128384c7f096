"""The loop on a GPU that is not there, up to its first log line: no step waits for the device, computes in fp64 there, or mixes devices.

``train`` itself runs, from the loader's batch on. In place of what needs a driver: DeepSpeed's engine is ``Engine`` (stage 1 on one
rank, its weights, masters and gradients laid as DeepSpeed lays them, torch's AdamW for it), the copy of a batch to the device hands
out tensors without numbers, and events measure nothing. Copies and waits of the first step are not looked at: tables move once.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ditscale.config import resolve
from ditscale.data.loader import Batch
from ditscale.dotted import set_key
from ditscale.models.blocks import DESIGNS
from ditscale.models.switches import Switches
from ditscale.ranks import World
from ditscale.rundir import RunDir
from ditscale.training import loop, noise_scale
from ditscale.training.guard import Guard
from ditscale.training.zero import zero
from ditscale.training.zero.layout import Made

from .fake_gpu import DEVICE, Event, fake_gpu

pytestmark = [pytest.mark.usefixtures("in_repository"), pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")]
FORMULATIONS = {"flow": {}, "edm": {}, "ddpm": {"min_snr_gamma": 5.0}}
VARIANTS = {
    "baseline": {},
    "masked": {},
    "mdt": {"decoder_depth": 1, "mask_ratio_max": 0.5, "long_skips": True},
    "discriminative": {"teacher_noise": "uniform_below", "shared_noise": False},
    "tread": {},
    "sprint": {"path_drop": 0.2},
}
PRODUCTS = ("mm", "addmm", "bmm", "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention")


class LogLine(Exception):
    """The loop has come to its first line, where it may wait."""


class Engine:
    """ZeRO 1 on one rank in bf16: what ``training/zero`` asks of DeepSpeed, by the same names."""

    def __init__(self, model, config, world_size):
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = config.train.optimizer.groups(named, model.scales, config.train)
        self.module, self.device, self.averaged_gradients, self.optimizer = model, DEVICE, {}, self
        self._get_preflattened_grad_partition = self._link_all_hp_params = None  # there, as in DeepSpeed
        self.weights, shapes, sizes = [], {name: p.shape for name, p in named.items()}, [group["params"] for group in groups]
        for group in groups:
            masters = torch.cat([p.detach().flatten() for p in group["params"]])
            flat, end = masters.to(zero.forward_dtype(config)), 0
            for p in group["params"]:
                p.data, end = flat[end:end + p.numel()].view(p.shape), end + p.numel()
            self.weights.append(flat)
            group["params"] = [nn.Parameter(masters)]
        self.made = Made(config.train.optimizer.build(groups, config.train), sizes, shapes, False, True)
        self.micro_steps, self.steps, self.micro = 0, 0, config.train.global_batch // config.micro_batch

    def __call__(self, *args, **more):
        return self.module(*args, **more)

    def zero_optimization_stage(self):
        return 1

    def gradient_accumulation_steps(self):
        return self.micro

    def is_gradient_accumulation_boundary(self):
        return (self.micro_steps + 1) % self.micro == 0

    def no_sync(self):
        return nullcontext()

    def backward(self, loss):
        (loss / self.micro).backward()

    def step(self):
        if self.is_gradient_accumulation_boundary():
            self.steps += 1
            for index, (group, weights) in enumerate(zip(self.made.optimizer.param_groups, self.weights)):
                [master] = group["params"]
                master.grad = self.averaged_gradients[index].flat_partition.to(master.dtype)
                self.made.optimizer.step()
                weights.copy_(master.detach())
                master.grad = None
        self.micro_steps += 1

    def destroy(self):
        pass


@pytest.fixture
def trained(values, pixels, tmp_path, world, monkeypatch):
    """``trained(steps, **keys)``: the FakeGpu after so many steps of a run with these keys; waits of the first are forgotten."""
    def train(steps, changes):
        settings = {"model.name": "DiT-2x64/8",
                    "data.path": str(pixels), "data.name": "noise", "data.resolution": 32, "data.channels": 3, "data.classes": 5,
                    "evaluation": None, "train.precision": "bf16", "train.grad_clip": 1.0, "train.images": 320, "train.global_batch": 32,
                    "train.ema_lengths": [0.1], "train.checkpoint_every_images": 320, "resources.loader": "mmap",
                    "resources.deepspeed": "ds_configs/zero1.json", "resources.micro_batch": 32,
                    "resources.log_every_images": 32 * steps, **changes}
        for key, value in settings.items():
            set_key(values, key, value)
        config, run = resolve(values, "test"), RunDir(tmp_path / "run")
        run.create({"run_id": "run", "config": config.model_dump(mode="json")})
        with fake_gpu() as gpu:
            class Watched(Engine):
                def step(self):
                    super().step()
                    if self.steps == 1 and self.micro_steps % self.micro == 0:
                        gpu.waits.clear()
            engines = []
            monkeypatch.setattr(zero, "make_engine", lambda *args: engines.append(Watched(*args)) or engines[0])
            monkeypatch.setattr(zero, "destroy", lambda engine: None)
            monkeypatch.setattr(loop, "on_device", lambda loader, device: (
                Batch(*(torch.empty_like(part, device=device) for part in batch)) for batch in loader))
            monkeypatch.setattr(loop.checkpoint, "restore", lambda *args: (0, 0))
            monkeypatch.setattr(torch.cuda, "Event", Event)
            monkeypatch.setattr(Guard, "read", at_the_log_line)
            with pytest.raises(LogLine):
                loop.train(config, run, World(0, 1, DEVICE))
            assert engines[0].steps == steps
        return gpu
    return train


def at_the_log_line(guard):
    raise LogLine


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_waits_or_computes_in_fp64(trained, variant, formulation, block):
    """Whether a step waits does not depend on its blocks, which have no branches: a second step with one design is enough."""
    keys = {"objective": {"name": variant, **VARIANTS[variant]}, "formulation": {"name": formulation, **FORMULATIONS[formulation]}}
    depth = 3 if variant == "sprint" else 2                                    # it has three parts
    gpu = trained(2 if block == "adaln_zero" else 1, {**keys, "model.block": block, "model.name": f"DiT-{depth}x64/8"})
    assert (gpu.waits, gpu.wide) == ([], [])
    products = {name: gpu.dtypes[name] for name in PRODUCTS if name in gpu.dtypes}
    # SD-DiT's cosines to the prototypes are in fp32, as its softmax at a temperature of 0.04 asks for.
    others = {torch.float32} if variant == "discriminative" else set()
    assert {name: dtypes - others for name, dtypes in products.items()} == dict.fromkeys(products, {torch.bfloat16})
    assert gpu.dtypes["_fused_adamw_"] <= {torch.float32}


def test_nor_with_accumulation_latents_and_a_schedule(trained, latents, values, monkeypatch):
    """The noise scale, of accumulated micro batches, measured in both steps."""
    monkeypatch.setattr(noise_scale, "EVERY", 1)
    values["data"].update({"latent_scale": 0.5})
    gpu = trained(2, {"objective": {"name": "masked", "mask_schedule": "cosine"}, "resources.micro_batch": 8, "data.path": str(latents),
                      "data.resolution": 4, "data.channels": 4, "model.name": "DiT-2x64/2", "train.lr_schedule": "cosine"})
    assert (gpu.waits, gpu.wide) == ([], [])


def test_nor_does_muon(trained):
    """Its products are in bf16, as the model's."""
    gpu = trained(2, {"train.optimizer": {"name": "muon", "modulation": "muon"}, "train.weight_decay": 0.1})
    assert (gpu.waits, gpu.wide) == ([], [])
    assert gpu.dtypes["baddbmm"] == {torch.bfloat16} and gpu.dtypes["_fused_adamw_"] <= {torch.float32}


@pytest.mark.parametrize("variant", ["baseline", "masked", "discriminative"])
def test_nor_do_switches(trained, variant):
    """Nor a time shift and clean-image prediction; products stay in bf16, also of rotated queries and keys."""
    gpu = trained(2, {"objective": {"name": variant}, "model": {
        "name": "DiT-2x64/8", "block": "in_context", "norm": "rms", "mlp": "swiglu", "positions": "rope", "value_residual": True, "qk_norm": True,
        "patch_bottleneck": 12}, "formulation": {"name": "flow", "prediction": "x", "time_shift": "auto", "t_distribution": "logit_normal"}})
    assert (gpu.waits, gpu.wide) == ([], [])
    others = {torch.float32} if variant == "discriminative" else set()
    assert {name: gpu.dtypes[name] - others for name in PRODUCTS if name in gpu.dtypes} == {
        name: {torch.bfloat16} for name in PRODUCTS if name in gpu.dtypes}


@pytest.mark.parametrize("switches", [Switches(), Switches(norm="rms", mlp="swiglu", qk_norm=True)], ids=["plain", "switched"])
@pytest.mark.parametrize("design", DESIGNS)
def test_a_compiled_block_is_one_graph(design, switches):
    """Without a break, backward included; what a compiler makes of it only a real GPU can tell."""
    with fake_gpu():
        x, c = (torch.randn(4, *shape, device=DEVICE, dtype=torch.bfloat16) for shape in
                ((6, 64), (2, 64) if design == "cross_attention" else (64,)))
        block = DESIGNS[design].block(64, 64, 1, 4.0, switches, 0).bfloat16().to(DEVICE)
        torch.compile(block, fullgraph=True, backend="eager")(x.requires_grad_(), c).square().mean().backward()
        assert x.grad.device == DEVICE and x.grad.dtype is torch.bfloat16
