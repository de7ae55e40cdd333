"""generator draws, simulates, scores.

Sequence ``i`` of a spec is a pure function of (spec, seed, i): no I/O, no Ray, no global state.
The NumPy reference defines the answer; every other backend equals it bit for bit.
"""
