"""Training variants against each other: score against images seen and against training FLOPs, and who leads where.

    python analysis/variants.py runs/digits-demo
"""

from ditscale.figures.plots.variants import main

if __name__ == "__main__":
    raise SystemExit(main())
