"""Training data: built once into a ``.beton`` file, then streamed in an order that depends only on the seed.

``order`` and ``beton`` need numpy only; torch and FFCV are imported where they are used.
"""
