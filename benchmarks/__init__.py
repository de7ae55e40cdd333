"""Scripts that print the numbers the README quotes: `python -m benchmarks.<name>`."""
