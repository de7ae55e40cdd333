"""``python -m orchestration`` is ``morphogen``: what `ray job submit` runs where no console script is installed."""

from orchestration.cli import main

main()
