"""Checkpoints: written whole, read back, passed over when damaged."""
