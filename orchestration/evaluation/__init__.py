"""Scores of published models: losses, benchmark tasks, pass@k in a sandbox, and export for other evaluators."""
