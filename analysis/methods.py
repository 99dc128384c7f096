"""Methods against the plain baseline at equal training FLOPs: validation loss and score, with intervals over seeds.

    python analysis/methods.py runs/digits-demo
"""

from ditscale.figures.plots.methods import main

if __name__ == "__main__":
    raise SystemExit(main())
