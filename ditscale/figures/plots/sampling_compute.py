"""Score against sampling compute, one curve per model over the number of sampling steps: DiT's Figure 10 (arXiv 2212.09748).

Sampling compute per image is 2 x MACs x NFE FLOPs, and twice that with guidance, which runs the model with and without the
label. The paper counts each multiply-add once, so its numbers are half as large.
"""

import json

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.evaluation.passport import digest
from ditscale.figures.kit import labels, one_length, runs, script, study_table, style
from ditscale.models.macs import FLOPS_PER_MAC
from ditscale.studies.table.sampling_cost import EVERYWHERE

NAME = "sampling_compute"
COLUMNS = ["run_id", "model", "size", "patch_size", "seed", "macs", "images_seen", "guidance_scale", "nfe", "sampling_flops", "metric",
           "score"]
STEPS = ("sampling_steps", "nfe")                                       # the passport fields that vary in this figure


def sampling_flops(macs, nfe, guidance_scale):
    """FLOPs of the model for one image; arrays or numbers. NFE counts a guided evaluation once; a scale of 1 means no guidance."""
    return FLOPS_PER_MAC * np.asarray(macs, np.float64) * nfe * np.where(np.asarray(guidance_scale) == 1, 1, 2)


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points and its caption: the last checkpoint of each finished run at every NFE at which it was scored.

    Raises:
        UserError: the scores differ in more than their steps, no run has finished, every score has the same NFE, or guidance is used
            in some steps only.
    """
    rows, when, note = _points(table)
    with style.paper():
        figure, axes = style.new_axes(height=4.9)
        widths = style.widths_by_size(study_table.sizes_in_order(rows))
        for _, run in rows.groupby("run_id", sort=False):
            color, marker = style.patch_color(run["patch_size"].iloc[0]), style.patch_marker(run["patch_size"].iloc[0])
            axes.plot(run["sampling_flops"], run["score"], color=color, linewidth=widths[run["size"].iloc[0]], marker=marker,
                      markersize=4.4, markerfacecolor=style.PAPER, markeredgecolor=color, markeredgewidth=1.0, zorder=2)
        style.log_axis(axes.xaxis, rows["sampling_flops"], "Sampling compute (FLOPs per image)", 0.08, style.power_ticks)
        style.log_axis(axes.yaxis, rows["score"], style.score_label(rows), pad=0.08)
        _legend(figure, rows)
        _label_ends(axes, rows)
    return style.Drawing(NAME, figure, rows[COLUMNS], _caption(rows, when, note))


def ignoring_steps(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the number of steps removed from its passports: equal passports then differ at most in that number."""
    stated = [{name: value for name, value in json.loads(fields).items() if name not in STEPS} for fields in table["passport_fields"]]
    passports = [digest(kept) if kept else own for kept, own in zip(stated, table["passport"])]
    return table.assign(passport=passports, passport_fields=[json.dumps(kept, sort_keys=True) for kept in stated])


def larger_wins(rows: pd.DataFrame) -> tuple[int, int]:
    """Among pairs of points in which the smaller model spends at least as much sampling compute as the larger one: the number in which
    the larger one scores better, and the number of pairs."""
    macs, flops, score = (rows[name].to_numpy(float) for name in ("macs", "sampling_flops", "score"))
    spends = (macs[:, None] < macs) & (flops[:, None] >= flops)         # [smaller, larger]
    return int((spends & (score[:, None] > score)).sum()), int(spends.sum())


def _points(table: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """One row per run and NFE, where its scores are from, and sentences on what was left out or chosen."""
    usable, left_out = study_table.scored(ignoring_steps(table))
    for column, words in (("macs", "forward compute"), ("nfe", "number of model evaluations"), ("guidance_scale", "guidance scale")):
        usable, unknown = study_table.known(usable, column, words)
        left_out += unknown
    counted = usable["forwards_per_image"] > 0 if "forwards_per_image" in usable else pd.Series(False, usable.index)
    _require_whole_guidance(usable[~counted])
    final, chosen = one_length.ends(usable)
    if final["nfe"].nunique() == 1:
        raise UserError(f"every score has {final['nfe'].iloc[0]:g} model evaluations per image: there is nothing to compare. Score the "
                        "checkpoints at other numbers of steps with `ditscale evaluate RUN sampling_steps=[4,8,16,32]`")
    flops = sampling_flops(final["macs"], final["nfe"], final["guidance_scale"])
    if "forwards_per_image" in final:                                          # on record: guidance in some steps, or by another model
        flops = np.where(final["forwards_per_image"] > 0, FLOPS_PER_MAC * final["macs"].astype(float) * final["forwards_per_image"], flops)
    place = {model: i for i, model in enumerate(dict.fromkeys(final["model"]))}
    rows = final.assign(sampling_flops=flops, _model=final["model"].map(place))
    when = one_length.where(final) if chosen else "of the last checkpoint"
    return rows.sort_values(["_model", "run_id", "nfe"]).drop(columns="_model").reset_index(drop=True), when, chosen + left_out


def _require_whole_guidance(usable: pd.DataFrame) -> None:
    for fields, scale in zip(usable["passport_fields"], usable["guidance_scale"]):
        interval = json.loads(fields).get("guidance_interval")
        if scale != 1 and interval not in EVERYWHERE:
            raise UserError(f"guidance is used only at the noise levels {interval}: this table does not say how many steps run the model twice, "
                            "so sampling compute is not known; use scores with guidance in all steps or in none")


def _legend(figure, rows: pd.DataFrame) -> None:
    handles = [Line2D([], [], color=style.patch_color(p), marker=style.patch_marker(p), markersize=5.5, linewidth=1.8,
                      markerfacecolor=style.PAPER, label=f"patch size {p}") for p in sorted(rows["patch_size"].unique())]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _label_ends(axes, rows: pd.DataFrame) -> None:
    """Writes each model's name at the largest number of steps of its first run."""
    ends = rows.groupby("run_id", sort=False).tail(1).drop_duplicates("model")
    along = runs.between(runs.curves(rows, "sampling_flops", "score"))
    names = [study_table.short_name(model) for model in ends["model"]]
    labels.place(axes, list(zip(ends["sampling_flops"], ends["score"])), names, [4.4] * len(ends), crossed=along)


def _caption(rows: pd.DataFrame, when: str, note: str) -> str:
    numbers = ", ".join(f"{n:g}" for n in sorted(rows["nfe"].unique()))
    guided = rows["guidance_scale"].iloc[0] != 1
    wins, pairs = larger_wins(rows)
    verdict = (f" When a smaller model spends at least as much sampling compute as a larger one ({study_table.count(pairs, 'pair')} of "
               f"points), the larger one scores better in {wins}." if pairs else "")
    return (f"{style.metric_name(rows)} {when} against sampling compute, in the layout of DiT's Figure 10: one curve per run "
            f"over {numbers} model evaluations (NFE) per image; 2 FLOPs per multiply-add"
            f"{', two passes per guided evaluation' if guided else ''}; the decoder is not counted. Thicker lines are larger models.{verdict}"
            f"{note}")


SCRIPT = script.figure(__doc__, draw)
main = SCRIPT.main
