"""Figures of a study: each module turns rows of the ledger into a drawing, its plotted points and its caption.

``study_table`` which rows may share an axis, and the command line of all figures; ``style`` how they look and are saved;
``labels`` names that do not lie on each other. ``analysis/`` holds a script for each.
"""
