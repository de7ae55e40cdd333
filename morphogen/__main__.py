"""`python -m morphogen`: the command line."""

from orchestration.cli import main

main()
