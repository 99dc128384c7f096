"""Score by model size and patch size, the area of a bubble its forward compute: DiT's Figure 2, left (arXiv 2212.09748).

    python analysis/bubbles.py runs/digits-demo
"""

from ditscale.figures.plots.bubbles import main

if __name__ == "__main__":
    raise SystemExit(main())
