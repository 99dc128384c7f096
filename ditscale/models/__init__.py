"""The DiT family in pure torch: no config files, no DeepSpeed, nothing distributed.

``sizes`` needs no torch; the rest does, so import it from its own module.
"""
