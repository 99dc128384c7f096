"""The cost-score frontier with the probability that each choice truly is on it.

    python analysis/frontier.py runs/digits-demo --cost train_flops
"""

from ditscale.figures.plots.frontier import main

if __name__ == "__main__":
    raise SystemExit(main())
