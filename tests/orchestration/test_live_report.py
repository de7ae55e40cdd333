"""What a live run counts, and the page that shows it."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from orchestration.errors import InvalidRequestError
from orchestration.live.config import parse_live
from orchestration.live.stats import SAMPLES, LiveRecord
from orchestration.reports.live_page import render_live

MIB = 1 << 20


def counted(seconds: int = 100) -> dict:
    """A trainer that takes 1,000 tokens a second, starving half the time, and generators throttled at the end."""
    now = [0.0]
    record = LiveRecord(lambda: now[0])
    for second in range(seconds):
        now[0] = second + 1.0
        record.made(2000, written=second > 0)
        record.took(0, 1000, 5.0 if second == 0 else 0.5)
        record.throttled(second >= seconds - 11)
        record.sample(MIB, 2 * MIB, MIB)
    facts = {"dataset": "tiny@1", "digest": "0" * 64, "buffer_bytes": 4 * MIB, **record.facts()}
    return json.loads(json.dumps(facts))


def test_waiting_rates_and_peak_are_what_happened():
    facts = counted()
    assert (facts["shards_written"], facts["shards_reused"]) == (99, 1)
    assert facts["generated_tokens"] == 99 * 2000
    assert facts["generated_tokens_per_s"] == pytest.approx(1980)
    assert facts["consumed_tokens"] == 100_000
    assert facts["first_batch_s"] == 5.0
    assert facts["starvation_s"] == pytest.approx(99 * 0.5)
    assert facts["throttled_s"] == 10.0
    assert facts["peak_bytes"] == 3 * MIB


@pytest.mark.parametrize("seconds", [1, 100, 10_000])
def test_the_timeline_stays_short_and_ends_at_the_end(seconds):
    rows = counted(seconds)["timeline"]
    assert len(rows) <= SAMPLES
    times = [row[0] for row in rows]
    assert times == sorted(times)
    assert times[-1] == seconds


def test_the_page_is_whole_and_says_the_numbers():
    page = render_live("a<b", counted())
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert "1,980" in page
    assert "3.00 MiB" in page
    figures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(figures) == 2
    for figure in figures:
        assert len(ElementTree.fromstring(figure).findall(".//path[@clip-path]")) >= 2
    assert not re.search(r"<script|https?://", page), "self-contained"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"no table \[live\]"),
        ({"params": "p@1"}, "live.tokens: missing; give it a value"),
        ({"params": "p@1", "tokens": 0}, "live.tokens = 0: input should be greater than or equal to 1"),
        ({"params": "p@1", "tokens": 1, "shards": 2}, "live.shards: unknown field"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(table, message):
    with pytest.raises(InvalidRequestError, match=message) as raised:
        parse_live(table)
    assert "\n" not in str(raised.value)


def test_an_option_on_the_command_line_wins_over_the_table():
    assert parse_live({"params": "p@1", "tokens": 1, "buffer_bytes": 9}, buffer_bytes=7).buffer_bytes == 7
    assert parse_live({"params": "p@1", "tokens": 1, "buffer_bytes": 9}, buffer_bytes=None).buffer_bytes == 9
