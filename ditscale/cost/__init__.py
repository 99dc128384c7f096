"""What a run costs, in closed form: no torch needed to ask."""
