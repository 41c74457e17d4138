"""Measures a model by multiple-choice questions about videos."""
