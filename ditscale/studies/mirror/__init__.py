"""A study's lines in W&B, Trackio or MLflow, after the fact. ``MIRRORS`` is the list; each is a module here, with a package and an extra
of setup.cfg of the same name."""

MIRRORS = ("wandb", "trackio", "mlflow")
