"""Figures of a study: each module turns rows of the ledger into a drawing, its plotted points and its caption.

``study_table`` which rows may share an axis, and the command line of all scripts; ``published`` rows from a
paper's CSV (one's own: ``studies.csv_table``); ``script`` the options of a figure; ``beside`` published results next to one's own; ``style`` how
figures look and are saved; ``labels`` names that do not lie on each other. ``analysis/`` holds a script for each figure.
"""
