"""The same trend in every metric of an evaluation, FID to recall: DiT's Figure 12 (arXiv 2212.09748).

    python analysis/metrics.py runs/digits-demo
"""

from ditscale.figures.plots.metrics import main

if __name__ == "__main__":
    raise SystemExit(main())
