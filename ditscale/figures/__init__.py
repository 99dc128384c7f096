"""Figures of a study. ``plots`` has one module per figure, which turns rows of the ledger into a drawing, its plotted points and its
caption; ``kit`` has what they share (rows that may share an axis, style, labels, published results, the command line).
"""
