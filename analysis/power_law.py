"""The study's power laws as fit cards: power_law.json, score against model MACs and against training FLOPs.

    python analysis/power_law.py runs/digits-demo
"""

from ditscale.figures.plots.power_law import main

if __name__ == "__main__":
    raise SystemExit(main())
