"""Runs as the lake records them: their log, heartbeats and checkpoints."""
