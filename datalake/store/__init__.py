"""Object stores: one interface, a local folder and S3, retries, and the check that a store is fit for a lake."""
