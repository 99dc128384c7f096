"""Images made from a checkpoint."""
