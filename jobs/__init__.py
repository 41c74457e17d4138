"""The user's side of the platform: configuration in, exit code out."""
