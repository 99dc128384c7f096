"""How a run is started: one module a place."""
