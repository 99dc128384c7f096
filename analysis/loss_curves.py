"""Training loss of each run, every logged term apart, the whole run and its early part: DiT's Figure 13 (arXiv 2212.09748).

    python analysis/loss_curves.py runs/digits-demo
"""

from ditscale.figures.plots.loss_curves import main

if __name__ == "__main__":
    raise SystemExit(main())
