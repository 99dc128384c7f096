"""The cost of a run in closed form, without torch."""
