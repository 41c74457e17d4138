"""Videos in, WebDataset shards and a Parquet manifest out: sources → probe → plan → decode → pack → publish."""
