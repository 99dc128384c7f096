"""Score against what training cost, with arrows that say how many times cheaper a variant is, and how sure that is.

    python analysis/cost_quality.py runs/digits-demo --cost accelerator_hours
"""

from ditscale.figures.plots.cost_quality import main

if __name__ == "__main__":
    raise SystemExit(main())
