"""Generates images from a checkpoint."""
