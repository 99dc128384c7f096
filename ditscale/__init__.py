"""ditscale: scaling studies of diffusion transformers, from a sweep file to a law with an interval."""

__version__ = "0.1.0"
