"""From stored samples to packed batches."""
