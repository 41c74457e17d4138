"""The hybrid as transformers knows a model: its configuration, loading, Auto classes and generation."""
