"""Checkpoints: written completely, read back, skipped if damaged."""
