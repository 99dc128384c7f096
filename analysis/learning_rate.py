"""Final loss against learning rate for each model, with the best rate and whether it moves with size.

    python analysis/learning_rate.py runs/digits-lr
"""

from ditscale.figures.plots.learning_rate import main

if __name__ == "__main__":
    raise SystemExit(main())
