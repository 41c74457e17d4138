"""The video side in chunks: one walk over the packed video tokens, for encoding, training and context parallel."""
