"""Studies: from a study file to run directories, and back to one table."""
