"""The cost of a run in closed form, computed without torch."""
