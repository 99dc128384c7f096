"""Score against one swept setting at equal images: mask ratio, guidance scale, learning rate or any other key of a run.

    python analysis/sweeps.py runs/digits-demo --over guidance_scale
"""

from ditscale.figures.plots.sweeps import main

if __name__ == "__main__":
    raise SystemExit(main())
