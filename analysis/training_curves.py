"""Score over images seen in small multiples: the patch size fixed above, the model size fixed below: DiT's Figure 6
(arXiv 2212.09748).

    python analysis/training_curves.py runs/digits-demo
"""

from ditscale.figures.plots.training_curves import main

if __name__ == "__main__":
    raise SystemExit(main())
