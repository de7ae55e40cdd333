"""Our model as lm-evaluation-harness asks one: by text, as it is in memory. Importing this imports the harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval import utils  # type: ignore[import-not-found, import-untyped, unused-ignore]
from lm_eval.api.model import TemplateLM  # type: ignore[import-not-found, import-untyped, unused-ignore]

from orchestration.corpus.tokenizers import TextTokenizer
from trainer import Llama
from trainer.evaluate import score
from trainer.precision import Precision
from trainer.sample import sample

ROWS = 16
NEW_TOKENS = 256


class HarnessModel(TemplateLM):  # type: ignore[misc, unused-ignore]
    """``context`` tokens are seen at once: of longer ones the last, as the harness has it of any model."""

    def __init__(self, model: Llama, tokenizer: TextTokenizer, context: int, precision: Precision) -> None:
        super().__init__()
        self._model, self._text, self._context, self._precision = model, tokenizer, context, precision
        self._device = model.lm_head.weight.device

    @property
    def eot_token_id(self) -> int:
        return self._text.end_of_text

    @property
    def max_length(self) -> int:
        return self._context

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        del add_special_tokens  # our texts have none but the end, which no text spells
        return self._text.encode([string.encode(errors="replace")])[0].tolist()

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy sampling gives it) of each (_, context, continuation)."""
        longest = self._context + 1
        rows = [([*before, *after][-longest:], len(after)) for _, before, after in requests]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        order = sorted(range(len(rows)), key=lambda at: len(rows[at][0]))
        for start in range(0, len(order), ROWS):
            group = order[start : start + ROWS]
            tokens_BT = np.full((len(group), max(2, *(len(rows[at][0]) for at in group))), self.eot_token_id)
            for row_T, at in zip(tokens_BT, group, strict=True):
                row_T[: len(rows[at][0])] = rows[at][0]
            losses_BT, hits_BT = score(self._model, tokens_BT, self._precision, self._device)
            for losses_T, hits_T, at in zip(losses_BT, hits_BT, group, strict=True):
                row, count = rows[at]
                asked = slice(len(row) - 1 - count, len(row) - 1)
                found[at] = (-float(losses_T[asked].sum()), bool(hits_T[asked].all()))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        del disable_tqdm
        found = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(self.tok_encode(text), self.eot_token_id, self._context, 1)
            parts = self._loglikelihood_tokens([(None, *utils.make_disjoint_window(window)) for window in windows])
            found.append(sum(likelihood for likelihood, _ in parts))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        del disable_tqdm
        return [self._generated(*request.args) for request in requests]

    def _generated(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        new_tokens = min(int(settings.get("max_gen_toks", NEW_TOKENS)), self._context - 1)
        prompt = (self.tok_encode(context) or [self.eot_token_id])[-(self._context - new_tokens) :]
        (tokens,) = sample(
            self._model,
            prompt,
            count=1,
            new_tokens=new_tokens,
            temperature=float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0,
            seed=0,
            vocab_size=self._text.vocab_size,
            end=self.eot_token_id,
            precision=self._precision,
            finished=lambda found: any(stop in self._decoded(found) for stop in stops),
        )
        text = self._decoded(tokens)
        return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]

    def _decoded(self, tokens: Sequence[int]) -> str:
        return b"".join(self._text.decode(np.array(tokens, dtype=np.int64))).decode(errors="replace")
