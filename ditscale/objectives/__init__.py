"""Training variants. An objective is a pure function of (model, formulation, batch, randomness) that returns named loss terms."""
