"""Validation loss of each run: over training, and by tenth of the noise levels at the end.

    python analysis/validation.py runs/digits-demo
"""

from ditscale.figures.plots.validation import main

if __name__ == "__main__":
    raise SystemExit(main())
