"""One file per family: a spec model, and `simulate(spec, seed, ids, attempts, backend)` from addresses to tokens."""
