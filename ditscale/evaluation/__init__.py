"""Scoring: samples, features, a distance, and a passport with every setting that affects the score."""
