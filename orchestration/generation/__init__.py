"""Generation of datasets, on Ray or on this machine's cores: jobs, workers, and recomputation of lost shards."""
