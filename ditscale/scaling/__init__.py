"""Scaling laws: forms, fits, intervals and correlations, in numpy and scipy alone. Nothing here knows a run directory.

``laws`` the forms; ``fitting`` from points to a law; ``intervals`` how far to trust it; ``correlations`` ranks and
lines; ``noise`` what seeds differ by; ``frontier``, ``multiplier`` and ``quality`` what a cost buys; ``status`` how each of
them says that the data cannot carry an answer.
"""
