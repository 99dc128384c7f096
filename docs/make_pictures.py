"""Draws every picture of the documentation: `make pictures`, after `make demo` and the studies docs/pictures/digits_blocks.yaml,
sweeps/digits_lr.yaml and sweeps/digits_budgets.yaml.

    python docs/make_pictures.py [--runs runs] [--only NAME,NAME]

Each figure is drawn by `ditscale figure`, then scaled to at most 1000 pixels and 128 colors, so that a picture takes less than 60 kB.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
SIMULATED = "simulated.csv"                                                    # IsoFLOP points of a known law
TABLE = "analysis/published/dit_table4_all_models.csv"
PLAIN = ["--where", "variant=baseline"]
# picture -> figure, study or table, options; a study is a folder below --runs
FIGURES = {
    "bubbles": ("bubbles", TABLE),
    "block_designs": ("block_designs", "digits-blocks"),
    "training_curves": ("training_curves", "digits-demo", *PLAIN),
    "samples": ("samples", "digits-demo", *PLAIN, "--where", "patch_size=2"),
    "gflops": ("gflops", TABLE),
    "training_compute": ("training_compute", "digits-demo", *PLAIN),
    "published_training_compute": ("training_compute", TABLE, "--published", "maskdit,mdt"),
    "sampling_compute": ("sampling_compute", "digits-sampling", "--where", "guidance_scale=1.5"),
    "metrics": ("metrics", TABLE),
    "loss_curves": ("loss_curves", "digits-demo", "--where", "model=DiT-femto/2"),
    "sweeps": ("sweeps", "digits-sampling", "--over", "guidance_scale", "--where", "sampling_steps=8"),
    "throughput": ("throughput", "digits-demo"),
    "cost_quality": ("cost_quality", "analysis/published"),
    "frontier": ("frontier", "digits-demo"),
    "isoflop": ("isoflop", SIMULATED),
    "scaling_law": ("scaling_law", "digits-demo", *PLAIN),
    "variants": ("variants", "digits-demo"),
    "validation": ("validation", "digits-demo", *PLAIN, "--where", "patch_size=2"),
    "learning_rate": ("learning_rate", "digits-lr"),
    "branches": ("branches", "digits-budgets", "--where", "metric=loss"),
    "cifar10_rates": ("learning_rate", "studies/cifar10_small/rates"),
    "cifar10_variants": ("variants", "studies/cifar10_small"),
    "cifar10_methods": ("methods", "studies/cifar10_small"),
    "cifar10_sensitivity": ("methods", "studies/cifar10_small/sensitivity", "--over", "discriminative, cls_weight=0", "--at", "images"),
}
CONVERGENCE = "sampler_convergence"                                            # of benchmarks/convergence.py
NOISE = "noise"                                                                # of the demo's seeds
COORDINATES = "coordinate_check"                                               # of the command, in the standard parametrization
SAMPLED = ("DiT-atto-2-baseline-flow-s0", "DiT-femto-4-baseline-flow-s0", "DiT-femto-2-baseline-flow-s0")    # scored again, as copies
SWEEPS = (["sampling_steps=[2,4,16]"], ["guidance_scale=[1,2,3]"])
WIDTHS, COLORS, LIMIT = (1000, 800, 640, 500), 128, 60_000


def ditscale(*words, codes: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run([sys.executable, "-c", "from ditscale.cli import main; main()", *map(str, words)], cwd=ROOT)
    if done.returncode not in codes:
        raise SystemExit(f"ditscale {' '.join(map(str, words))}: exit code {done.returncode}")


def copies(runs: Path, study: str) -> list[Path]:
    """The demo's runs that are scored again, copied to another study: the demo itself gets no further evaluations."""
    folders = []
    for start in SAMPLED:
        [source] = (runs / "digits-demo").glob(f"{start}-*")
        folders.append(runs / study / source.name)
        if not folders[-1].exists():
            shutil.copytree(source, folders[-1])
    return folders


def sampling_study(runs: Path) -> None:
    """Copies three runs of the demo to `digits-sampling` and scores them with other numbers of steps and guidance scales."""
    for source in copies(runs, "digits-sampling"):
        for settings in SWEEPS:
            ditscale("evaluate", source, *settings)


def simulated_csv(path: Path) -> None:
    """IsoFLOP points of a known surface: Chinchilla's published law (arXiv 2203.15556), three seeds with 0.3 % of noise."""
    rng, lines = np.random.default_rng(0), ["run,N,D,score"]
    for budget in np.geomspace(1e18, 1e21, 4):
        best = 1.345 * (budget / 6) ** 0.4516                                    # of this law: G (C / 6)^a, a = beta / (alpha + beta)
        for size in best * np.geomspace(0.25, 4, 7):
            data = budget / (6 * size)
            for seed in range(3):
                loss = (1.69 + 406.4 * size**-0.34 + 410.7 * data**-0.28) * np.exp(0.003 * rng.standard_normal())
                lines.append(f"{budget:.0e}-{size:.3e}-{seed},{size:.6g},{data:.6g},{loss:.6g}")
    path.write_text("\n".join(lines) + "\n")


def draw_noise(study: Path, target: Path) -> None:
    """Standard deviation over the demo's three seeds of ln score and of ln validation loss, at each checkpoint; dots are variants."""
    from matplotlib.figure import Figure

    from ditscale.figures.kit import panels, style
    from ditscale.studies.table.ledger import collect

    table = collect(study)
    table = table[table["model"] == "DiT-femto/2"]
    variances = np.log(table["score"]).groupby([table["metric"], table["images_seen"], table["variant"]]).var()
    with style.paper():
        figure = Figure(figsize=(style.WIDTH, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for metric, color, words in (("fd_digits_cnn", style.PATCH_COLORS[4], "Fréchet distance"), ("loss", style.PATCH_COLORS[2], "validation loss")):
            own = variances[metric] ** 0.5
            axes.plot(own.index.get_level_values("images_seen"), own, linestyle="", marker="o", markersize=4, color=color, alpha=0.5)
            pooled = variances[metric].groupby("images_seen").mean() ** 0.5
            axes.plot(pooled.index, pooled, color=color, marker="D", label=words)
            print(f"{metric}: pooled {variances[metric].mean() ** 0.5:.4f}, {2 * len(variances[metric])} degrees of freedom")
        axes.set_yscale("log")
        axes.set(xlabel="Images seen", ylabel="Standard deviation of ln over seeds", xticks=sorted(table["images_seen"].unique()))
        axes.xaxis.set_major_formatter(panels.short_counts())
        axes.grid(True)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        figure.savefig(target, dpi=200)


def shrink(source: Path, target: Path) -> None:
    """Scale a picture down and write it with few colors; smaller until the file is small enough."""
    image = Image.open(source).convert("RGB")
    for width in WIDTHS:
        width = min(width, image.width)
        small = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        small.quantize(COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size < LIMIT:
            return
    raise SystemExit(f"{target}: {target.stat().st_size:,} bytes at {width} pixels; {LIMIT:,} are allowed")


def draw(name: str, runs: Path, folder: Path) -> None:
    if name == CONVERGENCE:
        subprocess.run([sys.executable, ROOT / "benchmarks" / "convergence.py", "--out", folder / f"{name}.png"], check=True, cwd=ROOT)
        return shrink(folder / f"{name}.png", PICTURES / f"{name}.png")
    if name == COORDINATES:
        ditscale("coordinate-check", "sweeps/digits_lr.yaml", "model.name=DiT-4x64/2", "model.parametrization=standard", "model.base_width=null",
                 "train.lr=5e-4", "--out", folder, codes=(0, 1))               # 1: the standard parametrization fails
        return shrink(folder / f"{name}.png", PICTURES / f"{name}.png")
    if name == NOISE:
        draw_noise(runs / "digits-demo", folder / f"{name}.png")
        return shrink(folder / f"{name}.png", PICTURES / f"{name}.png")
    figure, source, *options = FIGURES[name]
    study = folder / source if source == SIMULATED else source if source.startswith(("analysis/", "studies/")) else runs / source
    if source == SIMULATED:
        simulated_csv(study)
    ditscale("figure", figure, study, "--format", "png", "--out", folder / name, *options)
    [drawn] = (folder / name).glob("*.png")
    shrink(drawn, PICTURES / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder with the studies")
    parser.add_argument("--only", default="", help="names of pictures, with commas")
    arguments = parser.parse_args()
    names, runs = [name for name in arguments.only.split(",") if name] or [*FIGURES, CONVERGENCE, COORDINATES, NOISE], arguments.runs.resolve()
    PICTURES.mkdir(exist_ok=True)
    if any(FIGURES[name][1] == "digits-sampling" for name in names if name in FIGURES):
        sampling_study(runs)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            draw(name, runs, Path(folder))


if __name__ == "__main__":
    main()
