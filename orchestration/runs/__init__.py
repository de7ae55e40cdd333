"""Who works on a run, and how it ends: leases, owners, signals, names."""
