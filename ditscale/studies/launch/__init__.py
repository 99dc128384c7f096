"""Start, watch, stop and retry the runs of a study."""
