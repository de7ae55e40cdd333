"""How soon Ray's processes ask a peer that says nothing whether it is still there.

Ray's own default is 300 s until it asks, and 120 s for the answer and for bytes that nobody acknowledges: a task whose
node was cut off from the driver for half a minute is waited for five minutes longer, and a node whose head is gone for
good looks for another after two. No module of Ray is imported here: Ray reads the variables as it is imported.
"""

from __future__ import annotations

import os

SETTINGS = {
    # Not less: a process with Ray's default hangs up on peers that ask more often than once in a minute.
    "RAY_grpc_client_keepalive_time_ms": "60000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
}


def prepare_silence() -> None:
    """Set these variables for this process and its children, but for those that are set; before Ray is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
