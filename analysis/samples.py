"""Sample images, a model a row and a class a column, the same noise down a column: DiT's Figure 7 (arXiv 2212.09748).

    python analysis/samples.py runs/digits-demo
"""

from ditscale.figures.plots.samples import main

if __name__ == "__main__":
    raise SystemExit(main())
