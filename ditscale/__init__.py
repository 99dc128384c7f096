"""ditscale: scaling studies of diffusion transformers, from a study file to a scaling law with intervals."""

__version__ = "0.2.0"


def __getattr__(name: str):
    """``from ditscale import Study``, loading pandas and scipy only on use."""
    if name == "Study":
        from ditscale.studies.table.study import Study
        return Study
    raise AttributeError(f"module 'ditscale' has no attribute '{name}'")
