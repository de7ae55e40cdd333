"""Everything that only a GPU can tell, in a few minutes: `python -m benchmarks.gpu --minutes 8 --out DIR`."""
