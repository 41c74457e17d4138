"""The synthetic long-video suite: needle videos drawn from a seed, encoded by ffmpeg, with their questions."""
