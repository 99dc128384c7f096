"""Scaling laws: forms, fits, intervals and correlations, with numpy and scipy only. Nothing here knows run directories.

``laws`` the forms and ``terms`` what a solver sees of them; ``fitting`` from points to a law (``result``), by ``solver`` from
``starts``, or by ``varpro``; ``evidence`` what speaks against it; ``profile`` and ``bootstrap`` how far to trust it; ``approaches``
compute-optimal sizes; ``correlations`` ranks and lines; ``noise`` what seeds differ by; ``frontier``, ``multiplier`` and
``quality`` what a cost buys; ``drawing`` and ``fit_drawing`` all of it on axes; ``status`` how each of them says that the data
cannot carry an answer.
"""
