"""What encoding to latents costs: counted on diffusers' own encoder, and said once in a plan."""

import json

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.data.manifest import read_manifest
from ditscale.studies.plan.encoding import NAMES, STABLE_DIFFUSION, encoder_macs, stable_diffusion_macs


@pytest.mark.parametrize("pixels", [256, 512])
def test_stable_diffusions_encoder_is_counted(pixels, counted_flops):
    import torch
    from diffusers import AutoencoderKL

    options = {key: value for key, value in STABLE_DIFFUSION.items() if not key.startswith("_")}
    with torch.device("meta"), torch.no_grad():
        model = AutoencoderKL(**options, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
        flops = counted_flops(lambda: model.encode(torch.empty(1, 3, pixels, pixels)))
    assert sum(weights.numel() for weights in model.parameters()) == 83_653_863
    assert flops == 2 * stable_diffusion_macs((pixels // 8) ** 2)


def test_which_encoder_is_known(tmp_path, vae_folders):
    assert encoder_macs(NAMES[0], 1024) == 136_361_082_880
    (tmp_path / "config.json").write_text(json.dumps({**STABLE_DIFFUSION, "sample_size": 256}))
    assert encoder_macs(str(tmp_path), 1024) == 136_361_082_880
    (tmp_path / "config.json").write_text(json.dumps({**STABLE_DIFFUSION, "layers_per_block": 3}))
    for unknown in (str(tmp_path), vae_folders["kl"], vae_folders["tiny"], "someone/else", "", None):
        assert encoder_macs(unknown, 1024) is None


@pytest.fixture
def planned(tmp_path, values):
    """What the plan of two runs on such data says of encoding."""
    def plan(path, resolution, channels, vae):
        values["data"].update(path=str(path), resolution=resolution, channels=channels, classes=5)
        values["evaluation"]["vae"] = vae
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
                "parameters": {"seed": {"values": [0, 1]}}, "runs_dir": str(tmp_path / "runs")}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        said = CliRunner().invoke(main, ["plan", str(tmp_path / "spec.yaml"), "--on", "H100:8"], env={"COLUMNS": "400"})
        assert said.exit_code == 0, said.output
        return [" ".join(part.split()) for part in said.output.split("Latents of ")[1:]]
    return plan


def test_a_plan_says_it_once(planned, latents, pixels):
    samples = read_manifest(latents).samples
    [said] = planned(latents, 4, 4, NAMES[0])
    flops = 4 * stable_diffusion_macs(16) * samples
    assert f"{samples} images x 2 x 2.114 GMACs" in said and f"= {flops:.3g} FLOPs" in said and "so this is already spent" in said
    [missing] = planned("not/there.beton", 32, 4, NAMES[1])
    assert "2 x 136.4 GMACs" in missing and "= 5.45e+11 FLOPs per image; the file does not exist yet." in missing
    [unknown] = planned(latents, 4, 4, "someone/else")
    assert "the cost of their encoder is unknown" in unknown
    assert planned(pixels, 32, 3, None) == [] and planned("not/there.beton", 32, 3, None) == []
