"""Implementations of the three operations that decide the speed: scan, convolution, attention."""
