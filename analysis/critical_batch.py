"""The critical batch size over training, as measured in each run, and next to it the one that a sweep over batch sizes gives.

    python analysis/critical_batch.py runs/digits-batch
"""

from ditscale.figures.plots.critical_batch import main

if __name__ == "__main__":
    raise SystemExit(main())
