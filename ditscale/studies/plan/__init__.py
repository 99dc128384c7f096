"""Forecasts the cost of a study before it runs."""
