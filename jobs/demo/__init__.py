"""`make demo`: the main job on this machine, typed as a user would type it, with two kills on the way."""
