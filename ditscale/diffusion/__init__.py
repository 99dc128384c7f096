"""Noise formulations and samplers. A formulation defines how to noise, what to predict and how to weight; it does not depend on which
variant uses it."""
