"""The Mamba-2 state-space scan: one signature, one file per implementation."""
