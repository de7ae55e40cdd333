"""The order of rows: which rows each step of a training run reads, computed and never stored."""
