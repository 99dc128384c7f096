"""The DiT family in pure torch: no config files, no DeepSpeed, nothing distributed.

``sizes`` needs no torch; the other modules do, so import from them directly.
"""
