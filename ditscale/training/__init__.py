"""Training with DeepSpeed; ``loop.py`` has the main loop."""
