"""Generation of datasets on Ray: the job, its actor pool, its workers, and recomputation of lost shards."""
