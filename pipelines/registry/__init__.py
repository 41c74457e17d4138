"""Models by name: versions with lineage in MLflow, gates, aliases."""
