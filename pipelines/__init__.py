"""The distributed flows: ingest (Ray Data), training (Ray Train), evaluation and the registry (MLflow)."""
