"""Metrics over features."""
