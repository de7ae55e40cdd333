"""Shards and manifests: how rows lie in Parquet files and how a dataset version lists them."""
