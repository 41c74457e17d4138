"""Training jobs on Ray Train: configuration, checkpoints, run directory, tracking."""
