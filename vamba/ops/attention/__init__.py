"""Attention over packed segments: one signature, one file per implementation."""
