"""Score against model size at each budget of training compute, its optimum by parabolas and by a surface, and N*(C).

    python analysis/isoflop.py runs/isoflop
"""

from ditscale.figures.plots.isoflop import main

if __name__ == "__main__":
    raise SystemExit(main())
