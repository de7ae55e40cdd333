"""Rejection: which candidates lie in the band, how a sequence looks for one, and how often rules do.

A candidate is an (id, attempt). With one sequence per rule, sequence i takes the least attempt whose score is in the
band. With K sequences per rule, group g tries rules r = 0, 1, ...; each slot of the group takes the least of
TRIES_PER_RULE initial states that is in the band, and the rule stands only if every slot finds one; the attempt is then
r * TRIES_PER_RULE + state. Either way (spec, seed, id, attempt) alone makes the sequence again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generator.cost import slice_size
from generator.errors import BandError
from generator.nca.rules import TRIES_PER_RULE
from generator.score import reference_scores, score_content
from generator.spec import BaseSpec, Simulated

# With one candidate in 1,000 accepted, a sequence finds none among so many once in 10**14.
MAX_ATTEMPTS = 1 << 15
MIN_RATE = 1e-3
PROBE_CHUNK = 256
BOUND_TOKENS = 512
WINDOW = 256

Simulate = Callable[[np.ndarray, np.ndarray], Simulated]


@dataclass(frozen=True)
class Candidates:
    """Scored sequences: tokens uint16 or uint32 [N, seq_len], the rest [N]."""

    tokens: np.ndarray
    attempts: np.ndarray
    ratio: np.ndarray
    normalized: np.ndarray
    accepted: np.ndarray


@dataclass(frozen=True)
class Acceptance:
    """How many of the tried candidates (rules, with several sequences per rule) were accepted."""

    candidates: int
    accepted: int

    @property
    def rate(self) -> float:
        """Share accepted."""
        return self.accepted / self.candidates


def judge(spec: BaseSpec, attempts_N: np.ndarray, made: Simulated) -> Candidates:
    """Score simulated candidates and mark those in the band (all, without one)."""
    ratio, normalized = score_content(spec, made.content)
    accepted = np.ones(len(made.tokens), dtype=bool)
    band = spec.accept_band
    if band is not None:
        scores = (ratio, normalized) if made.judged is None else score_content(spec, made.judged)
        score = scores[0] if band.score == "gzip-int32-v1" else scores[1]
        accepted = (score >= band.low) & (score <= band.high)
    return Candidates(made.tokens, attempts_N, ratio, normalized, accepted)


def judge_each(spec: BaseSpec, simulate: Simulate, ids_N: np.ndarray, attempts_N: np.ndarray) -> Candidates:
    """`judge` of every (id, attempt), simulated and scored in slices that fit memory; at least one address."""
    size = slice_size(spec)
    parts = []
    for start in range(0, len(ids_N), size):
        ids, attempts = ids_N[start : start + size], attempts_N[start : start + size]
        parts.append(judge(spec, attempts, simulate(ids, attempts)))
    return parts[0] if len(parts) == 1 else join(parts)


def tokens_of(spec: BaseSpec, simulate: Simulate, ids_N: np.ndarray, attempts_N: np.ndarray) -> np.ndarray:
    """Tokens of every (id, attempt), [N, seq_len], simulated in slices that fit memory and not scored."""
    tokens_NT = np.empty((len(ids_N), spec.seq_len), spec.token_dtype)
    size = slice_size(spec)
    for start in range(0, len(ids_N), size):
        stop = start + size
        tokens_NT[start:stop] = simulate(ids_N[start:stop], attempts_N[start:stop]).tokens
    return tokens_NT


def search(spec: BaseSpec, simulate: Simulate, ids_N: np.ndarray) -> Candidates:
    """The accepted candidate of every sequence id (ascending). BandError when one has none in MAX_ATTEMPTS."""
    if spec.rule_group == 1:
        return _search_alone(spec, simulate, ids_N)
    parts = []
    for group in np.unique(ids_N // spec.rule_group):
        found = _search_group(spec, simulate, int(group))
        slots = ids_N[ids_N // spec.rule_group == group] % spec.rule_group
        parts.append(take(found, slots))
    return join(parts)


def _search_alone(spec: BaseSpec, simulate: Simulate, ids_N: np.ndarray) -> Candidates:
    found = empty(spec, len(ids_N))
    tried = np.zeros(len(ids_N), dtype=np.int64)
    pending, fresh = np.empty(0, dtype=np.int64), 0
    while fresh < len(ids_N) or len(pending):
        # Redraws go first and fresh ids fill the window, so that calls stay large until the very end.
        more = np.arange(fresh, min(fresh + WINDOW - len(pending), len(ids_N)))
        fresh += len(more)
        pending = np.concatenate([pending, more])
        judged = judge_each(spec, simulate, ids_N[pending], tried[pending])
        put(found, pending[judged.accepted], take(judged, judged.accepted))
        pending = pending[~judged.accepted]
        tried[pending] += 1
        if len(pending) and tried[pending].max() >= MAX_ATTEMPTS:
            raise hopeless(spec, int(ids_N[pending[tried[pending].argmax()]]))
    return found


def _search_group(spec: BaseSpec, simulate: Simulate, group: int) -> Candidates:
    ids = group * spec.rule_group + np.arange(spec.rule_group)
    for rule in range(MAX_ATTEMPTS // TRIES_PER_RULE):
        found = _try_rule(spec, simulate, ids, rule)
        if found is not None:
            return found
    tries = MAX_ATTEMPTS // TRIES_PER_RULE
    finding = f"none of {tries} rules gave all {spec.rule_group} sequences of group {group} a place in it"
    raise BandError(_refusal(spec, finding))


def _try_rule(spec: BaseSpec, simulate: Simulate, ids: np.ndarray, rule: int) -> Candidates | None:
    """All slots' candidates under one rule, or None when some slot finds no initial state in the band."""
    found = empty(spec, len(ids))
    pending = np.arange(len(ids))
    for state in range(TRIES_PER_RULE):
        attempts = np.full(len(pending), rule * TRIES_PER_RULE + state, dtype=np.int64)
        judged = judge_each(spec, simulate, ids[pending], attempts)
        put(found, pending[judged.accepted], take(judged, judged.accepted))
        pending = pending[~judged.accepted]
        if not len(pending):
            return found
    return None


def probe(spec: BaseSpec, simulate: Simulate, candidates: int, enough: int | None = None) -> Acceptance:
    """Try `candidates` sequences from id 0 on (with K sequences per rule: candidates / K rules, at least 16) and count
    the accepted; stop early once `enough` are."""
    tried = accepted = 0
    chunk = min(PROBE_CHUNK, slice_size(spec))
    wanted = candidates if spec.rule_group == 1 else max(16, candidates // spec.rule_group)
    while tried < wanted and (enough is None or accepted < enough):
        if spec.rule_group == 1:
            ids = np.arange(tried, min(tried + chunk, wanted), dtype=np.int64)
            attempts = np.zeros_like(ids)
            accepted += int(judge(spec, attempts, simulate(ids, attempts)).accepted.sum())
            tried += len(ids)
        else:
            accepted += _try_rule(spec, simulate, np.arange(spec.rule_group, dtype=np.int64), tried) is not None
            tried += 1
    return Acceptance(tried, accepted)


def hopeless(spec: BaseSpec, sequence: int) -> BandError:
    """What to raise when a sequence has used up its attempts."""
    return BandError(_refusal(spec, f"sequence {sequence} met it in none of {MAX_ATTEMPTS} attempts"))


def _refusal(spec: BaseSpec, finding: str, least: float = MIN_RATE) -> str:
    band = spec.accept_band
    assert band is not None
    return (
        f"band: [{band.low:g}, {band.high:g}] of {band.score} is hardly met: {finding}; needed is at least "
        f"{least:g}; widen or move the band (`morphogen profile` shows the scores)"
    )


def refuse_rare(spec: BaseSpec, acceptance: Acceptance, least: float = MIN_RATE) -> None:
    """BandError when less than this share of the candidates was accepted."""
    if acceptance.rate < least:
        kind = "rules" if spec.rule_group > 1 else "candidates"
        finding = f"measured acceptance {acceptance.rate:.5f} ({acceptance.accepted} of {acceptance.candidates} {kind})"
        raise BandError(_refusal(spec, finding, least))


def refuse_impossible(spec: BaseSpec) -> None:
    """BandError when no candidate can score inside the band, by arithmetic alone: nothing is simulated.

    A sequence packs no better than as many zeros, and, with a tenth and 16 bytes to spare, no worse than independent
    noise from the spec's alphabet. Of long contents only the first BOUND_TOKENS count: longer ones pack better still.
    """
    band = spec.accept_band
    if band is None:
        return
    tokens = min(spec.score_tokens, BOUND_TOKENS)
    flat, noise = reference_scores(tokens, spec.alphabet)
    least = flat if tokens == spec.score_tokens else 0.0
    most = 1.1 * noise + 16 / (4.0 * tokens)
    if band.score != "gzip-int32-v1":
        least, most = (0.0, (most - flat) / (noise - flat))
    if band.low > most or band.high < least:
        raise BandError(
            f"band: [{band.low:g}, {band.high:g}] of {band.score} cannot be met: {spec.score_tokens} tokens of an "
            f"alphabet of {spec.alphabet} score from {least:.3g} to {most:.3g}; move the band into that range"
        )


def empty(spec: BaseSpec, count: int) -> Candidates:
    """Room for `count` accepted candidates."""
    return Candidates(
        np.empty((count, spec.seq_len), spec.token_dtype),
        np.empty(count, np.int64),
        np.empty(count),
        np.empty(count),
        np.ones(count, bool),
    )


def take(source: Candidates, where: np.ndarray) -> Candidates:
    """The rows `where` (indices or mask)."""
    return Candidates(
        source.tokens[where],
        source.attempts[where],
        source.ratio[where],
        source.normalized[where],
        source.accepted[where],
    )


def put(target: Candidates, where: np.ndarray, source: Candidates) -> None:
    """Write `source` into the rows `where`."""
    target.tokens[where] = source.tokens
    target.attempts[where] = source.attempts
    target.ratio[where] = source.ratio
    target.normalized[where] = source.normalized


def join(parts: list[Candidates]) -> Candidates:
    """One after another."""
    columns = ("tokens", "attempts", "ratio", "normalized", "accepted")
    return Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
