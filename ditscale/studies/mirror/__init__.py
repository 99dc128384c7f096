"""Copies a study's lines to W&B, Trackio or MLflow. ``MIRRORS`` is the list; each is a module here, with a package and an extra
of setup.cfg of the same name."""

MIRRORS = ("wandb", "trackio", "mlflow")
