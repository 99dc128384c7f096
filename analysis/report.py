"""The whole study on one page: report.html, and every file of the other scripts beside it.

    python analysis/report.py runs/digits-demo
"""

from ditscale.report.report import main

if __name__ == "__main__":
    raise SystemExit(main())
