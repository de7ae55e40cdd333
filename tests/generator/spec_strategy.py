"""Random `nca` specs over everything that changes a kernel, small enough to run in the reference."""

from hypothesis import strategies as st

from generator import SpecError, parse_spec
from generator.registry import GenerationSpec


@st.composite
def nca_specs(draw: st.DrawFn) -> GenerationSpec:
    """A valid spec: 2-D or 3-D, 2 to 16 colours, any neighbourhood, temperature zero or not."""
    dimensions = draw(st.sampled_from([2, 3]))
    patch = draw(st.sampled_from([1, 2] if dimensions == 3 else [1, 2, 3]))
    most = max(c for c in range(2, 17) if c ** (patch**dimensions) + 2 <= 65536)
    fields = {
        "grid": [patch * draw(st.integers(1, 4 if dimensions == 2 else 2)) for _ in range(dimensions)],
        "patch": patch,
        "colors": draw(st.integers(2, most)),
        "embed": draw(st.integers(1, 6)),
        "hidden": draw(st.integers(1, 24)),
        "neighborhood": draw(st.sampled_from(["moore", "von_neumann"])),
        "burn_in": draw(st.integers(0, 4)),
        "stride": draw(st.integers(1, 2)),
        "temperature": draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0])),
        "identity_bias": draw(st.sampled_from([0.0, 0.0, 0.5, -1.0])),
        "seq_len": draw(st.integers(2, 200)),
        "sequences_per_rule": draw(st.sampled_from([1, 1, 3])),
        "compat": {
            "channel_wrap": draw(st.booleans()),
            "init": draw(st.sampled_from(["categorical", "uniform"])),
        },
    }
    try:
        return parse_spec(fields)
    except SpecError as error:
        raise AssertionError(f"the strategy drew {fields}: {error}") from error
