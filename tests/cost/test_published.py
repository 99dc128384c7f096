"""Published numbers that the planner's closed forms must give: utilization of 216 measured runs of language models."""

import csv

import pytest

from ditscale.cost.throughput import utilization

# mosaicml/llm-foundry's table (Apache-2.0): layers, width, parameters, sequence, GPUs, peak FLOP/s, checkpointing, tokens/s, MFU %, HFU %
ROWS = [
    (80, 8192, 64862437376, 2048, 512, 989.4e12, True, 515636.0, 41.25, 55.0),
    (80, 8192, 64862437376, 2048, 128, 989.4e12, True, 135490.0, 43.36, 57.81),
    (48, 7168, 29975214080, 2048, 512, 989.4e12, True, 1083366.0, 40.27, 53.69),
    (40, 5120, 12853954560, 2048, 8, 312e12, False, 18097.0, 59.57, 59.57),
]


def both(layers, width, parameters, sequence, gpus, peak, recomputes, tokens_per_second):
    """MFU and HFU in per cent. A sequence is an "image" here: 6 P T FLOPs for its weights and 12 L d T^2 for attention; what
    recomputes takes a third more."""
    flops = 6 * parameters * sequence + 12 * layers * width * sequence**2
    mfu = 100 * utilization(flops, tokens_per_second / sequence, gpus, peak)
    return mfu, mfu * (4 / 3 if recomputes else 1)


@pytest.mark.parametrize("row", ROWS)
def test_rows_at_hand(row):
    assert both(*row[:-2]) == pytest.approx(row[-2:], rel=3e-4)


def test_all_rows(shared):
    path = shared.parent / "scaling_data" / "llmfoundry_throughput.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 216
    for row in rows:
        found = both(*(int(row[key]) for key in ("n_layers", "d_model", "params", "seq_len", "gpus")), float(row["peak_flops"]),
                     row["act_ckpt"] == "True", float(row["tokens_per_s"]))
        assert found == pytest.approx((float(row["mfu_pct"]), float(row["hfu_pct"])), rel=3e-4)
