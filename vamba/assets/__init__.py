"""Small files that ship with the package."""
