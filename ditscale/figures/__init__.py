"""Figures of a study: ``plots`` has a module a figure, which turns rows of the ledger into a drawing, its plotted points and its
caption; ``kit`` is what they share (rows that may share an axis, style, labels, published results, the command line).
"""
