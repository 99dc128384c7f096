"""Predictions of a study's largest run: made from its smaller ones, recorded before it starts, checked when it is done."""
