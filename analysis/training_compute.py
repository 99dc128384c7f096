"""Score against total training compute, one curve a run: DiT's Figure 9 (arXiv 2212.09748), and the law of the ends.

    python analysis/training_compute.py runs/digits-demo
"""

from ditscale.figures.plots.training_compute import main

if __name__ == "__main__":
    raise SystemExit(main())
