"""Averages of the weights, and the teacher."""
