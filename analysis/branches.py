"""Branches against their trunk: the score at the end of each decay, and that of the trunk's average at the same images.

    python analysis/branches.py runs/digits-branches --where metric=loss
"""

from ditscale.figures.plots.branches import main

if __name__ == "__main__":
    raise SystemExit(main())
