"""Score against model compute or training compute with the law of any form, its band, its hold-out, and the fit card.

    python analysis/scaling_law.py runs/digits-demo --form power_law_floor --x train_flops
"""

from ditscale.figures.plots.scaling_law import main

if __name__ == "__main__":
    raise SystemExit(main())
