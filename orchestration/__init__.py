"""orchestration proposes, judges, promotes.

The only place that knows Ray: generation jobs, streaming into Ray Train, the demo, and the command line.
Everything it runs can be interrupted and run again.
"""
