"""Published benchmarks, each read from its own annotation format."""
