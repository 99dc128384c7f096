"""Training under DeepSpeed; ``loop.py`` is the main loop."""
