"""The process that measures acceptance for the server: a question a line on stdin, an answer a line on stdout.

A question is ``{"spec": {...}, "cpu_s": seconds}``, an answer ``{"refusal": text or null}``. SIGPROF, whose default
action ends the process, comes after ``cpu_s`` of CPU time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.util import find_spec

from generator import BandError, check_acceptance, parse_spec
from generator.batch import CHECK_CANDIDATES
from generator.cost import candidate_cost

_INTERPRETED_OPERATIONS = 2 * 10**10  # below this NumPy ends sooner than a kernel is compiled
_YIELDS = 10  # the server's own work goes first


def main() -> None:
    """Answer until stdin ends."""
    os.nice(_YIELDS)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, question["cpu_s"])
        spec = parse_spec(question["spec"])
        small = CHECK_CANDIDATES * candidate_cost(spec).operations < _INTERPRETED_OPERATIONS
        refusal = None
        try:
            check_acceptance(spec, "reference" if small or not find_spec("numba") else "numba")
        except BandError as error:
            refusal = str(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps({"refusal": refusal}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
