"""The `vamba` command: one file per verb, each importing what it runs only when it runs."""
