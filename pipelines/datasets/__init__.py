"""Finished datasets: checked, described, shown, searched for duplicates."""
