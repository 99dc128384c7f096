"""Block designs of one model, score over images seen and over training FLOPs: DiT's Figure 5 (arXiv 2212.09748).

    python analysis/block_designs.py runs/imagenet256-blocks
"""

from ditscale.figures.plots.block_designs import main

if __name__ == "__main__":
    raise SystemExit(main())
