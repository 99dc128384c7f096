"""Predictions of a study's largest run: made from its smaller ones, put on record before it starts, checked when it is done."""
