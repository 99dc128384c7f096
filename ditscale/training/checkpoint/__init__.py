"""Checkpoints: written completely, verified by reading back, skipped if damaged."""
