"""Figures of a study: each module turns rows of the ledger into a drawing, its plotted points and its caption.

``study_table`` which rows may share an axis, and the command line of all scripts; ``csv_table`` and ``published`` rows from a
CSV, one's own or a paper's; ``script`` the options of a figure; ``beside`` published results next to one's own; ``style`` how
figures look and are saved; ``labels`` names that do not lie on each other. ``analysis/`` holds a script for each figure.
"""
