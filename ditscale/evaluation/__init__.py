"""Scoring: samples, features, a distance, and a passport that says how the number came about."""
