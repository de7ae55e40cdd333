"""datalake writes, commits, plans.

Objects are created once and never changed; version logs order them; manifests name them.
The plan turns (manifests, mixture, seed, step) into rows.
"""
