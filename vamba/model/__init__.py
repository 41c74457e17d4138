"""The hybrid model: configuration, modules, loading and generation."""
