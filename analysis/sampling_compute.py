"""Score against sampling compute, one curve per model over the number of sampling steps: DiT's Figure 10 (arXiv 2212.09748).

    python analysis/sampling_compute.py runs/digits-demo
"""

from ditscale.figures.plots.sampling_compute import main

if __name__ == "__main__":
    raise SystemExit(main())
