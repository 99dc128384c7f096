"""Score against the model's forward compute, one bubble a model: DiT's Figure 8 (arXiv 2212.09748).

    python analysis/gflops.py runs/digits-demo
"""

from ditscale.figures.plots.gflops import main

if __name__ == "__main__":
    raise SystemExit(main())
