"""Noise formulations and samplers. A formulation says how to noise, what to predict and how to weigh; it never learns which
variant uses it."""
