"""Measured training speed and peak memory of an accelerator, a bar a model and variant: after MaskDiT's (arXiv 2306.09305).

    python analysis/throughput.py runs/digits-demo
"""

from ditscale.figures.plots.throughput import main

if __name__ == "__main__":
    raise SystemExit(main())
