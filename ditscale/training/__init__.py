"""Training under DeepSpeed. ``loop.py`` is the one page that says how."""
