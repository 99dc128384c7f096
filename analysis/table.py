"""The study as one table: table.csv, one row an evaluation, every column of the ledger.

    python analysis/table.py runs/digits-demo
"""

from ditscale.figures.plots.table import main

if __name__ == "__main__":
    raise SystemExit(main())
