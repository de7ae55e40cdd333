"""Feedback: propose parameters, score them on a target, and promote what beats the incumbent on fresh seeds."""
