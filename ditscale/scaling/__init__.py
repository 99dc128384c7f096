"""Scaling laws: forms, fits, intervals and correlations, with numpy and scipy only. Nothing here reads run directories.

``laws`` has the forms and ``terms`` their model for the solver. ``fitting`` fits a law to points (``result``), by ``solver`` from
``starts`` or by ``varpro``; ``evidence`` tests it; ``profile`` and ``bootstrap`` make intervals; ``approaches`` finds
compute-optimal sizes; ``correlations`` measures trends; ``noise`` measures the spread of seeds; ``frontier``, ``multiplier`` and
``quality`` relate score to cost; ``drawing`` and ``fit_drawing`` draw results on axes; ``status`` says when the data
do not support an answer.
"""
