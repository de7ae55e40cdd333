"""Conversations as text: a record's messages rendered by a chat template, in a sandbox, as published models' are."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestration.corpus.places import MAX_RECORD, BadRecord
from orchestration.errors import CorpusError

_MOST_STEPS = 200_000
BEGINS, ENDS = "\ufdd0", "\ufdd1"  # no characters, and none ever: where what the assistant says begins and ends
_MOST_TURNS = 500  # of a conversation that is rendered again for each
_COUNTED, _JOINED = " counted", " joined"  # filters by names that no template can write

# What the share-GPT layout calls roles; its messages have ``from`` and ``value``.
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"}


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, and the tokens that it may name (``bos_token``, …).

    ``special`` are the tokens that mean something to the tokenizer: a message that spells one out could end the
    conversation, or begin another, and is refused.
    """

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    special: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            _Bounded().from_string(self.source)
        except jinja2.TemplateError as error:
            raise CorpusError(f"chat_template: it is no template ({error}); give a Jinja template") from error

    def render(self, messages: Any, where: str) -> str:
        """The text of a conversation: a list of messages, or JSON of one. Raises BadRecord."""
        return self._rendered(self._checked(messages, where), where)

    def prompt(self, messages: Any, where: str) -> str:
        """The same, up to where the assistant's next turn begins."""
        return self._rendered(self._checked(messages, where), where, ask=True)

    def turns(self, messages: Any, where: str) -> list[tuple[str, bool]]:
        """The text in parts, each with whether the assistant says it. Raises BadRecord, also where it says nothing.

        What it says is what the template marks by ``{% generation %}``. Where it marks nothing, a turn is what the
        message adds to the text in which it is asked for; so what an assistant's turn is followed by must not change
        how it is rendered.
        """
        found = self._checked(messages, where)
        said = [at for at, message in enumerate(found) if message["role"] == "assistant"]
        if not said:
            raise BadRecord(f"{where} has no message of the assistant", "give one that is to be learnt", "messages")
        for at in said:
            content = found[at].get("content")
            if not found[at].get("tool_calls") and not (isinstance(content, list) and content):
                if not isinstance(content, str):
                    raise BadRecord(
                        f"{where}: message {at + 1}, of the assistant, is of type {type(content).__name__}, not text",
                        "write it as a string in quotes",
                        "messages",
                    )
                if not content.strip():
                    raise BadRecord(
                        f"{where}: message {at + 1}, of the assistant, is empty",
                        "give what is to be learnt",
                        "messages",
                    )
        parts = self._marked_turns(found, where) if _marks(self.source) else self._added_turns(found, said, where)
        # The token that ends the document is what the assistant ends with, whatever the template puts in between.
        return [*parts, ("", True)] if said[-1] == len(found) - 1 else parts

    def _marked_turns(self, messages: list[dict[str, Any]], where: str) -> list[tuple[str, bool]]:
        text, bare = self._rendered(messages, where, marks=True), self._rendered(messages, where)
        parts = [part for turn in text.split(BEGINS) for part in zip(turn.split(ENDS, 1), (True, False), strict=False)]
        parts[0] = (parts[0][0], False)
        if "".join(part for part, _ in parts) != bare or not any(part and answer for part, answer in parts):
            raise BadRecord(
                f"{where}: the chat template marks nothing of it as said by the assistant, or it holds the characters "
                "U+FDD0 or U+FDD1 that mark it",
                "mend the template, or take the characters out",
                "messages",
            )
        return parts

    def _added_turns(self, messages: list[dict[str, Any]], said: list[int], where: str) -> list[tuple[str, bool]]:
        if len(said) > _MOST_TURNS:
            raise BadRecord(
                f"{where} has {len(said)} turns of the assistant, and {_MOST_TURNS} are the limit where the template "
                "does not mark them",
                "mark them in the template by {% generation %} … {% endgeneration %}",
                "messages",
            )
        whole = self._rendered(messages, where)
        parts, done = [], 0
        for at in said:
            before = self._rendered(messages[:at], where, ask=True) if at else ""
            after = self._rendered(messages[: at + 1], where)
            if len(after) <= len(before):
                raise BadRecord(
                    f"{where}: message {at + 1}, of the assistant, adds nothing to what the chat template renders",
                    "mend the template",
                    "messages",
                )
            if not (after.startswith(before) and whole.startswith(after) and done <= len(before)):
                raise BadRecord(
                    f"{where}: the chat template renders message {at + 1} otherwise once others follow it, or where it "
                    "is asked for, so which tokens are answers cannot be told",
                    "mark them in the template by {% generation %} … {% endgeneration %}",
                    "messages",
                )
            parts += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
            done = len(after)
        return [*parts, (whole[done:], False)] if done < len(whole) else parts

    def _checked(self, messages: Any, where: str) -> list[dict[str, Any]]:
        """The messages, none of which spells a special token."""
        try:
            found = _messages(messages)
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise BadRecord(
                f"{where} has no messages with role and content ({error})", "name the field that holds them", "messages"
            ) from error
        for message in found:
            spelled = next((token for token in self.special if token in str(message.get("content", ""))), None)
            if spelled is not None:
                raise BadRecord(
                    f"{where} has a message that spells the special token {spelled}",
                    "take the token out of the message, or skip such records",
                    "messages",
                )
        return found

    def _rendered(self, messages: list[dict[str, Any]], where: str, *, ask: bool = False, marks: bool = False) -> str:
        try:
            text = _opened(self.source, threading.get_ident(), marks)(
                {"messages": messages, "add_generation_prompt": ask, **self.tokens}
            )
        except Exception as error:  # the template is a program, and can raise anything
            raise BadRecord(
                f"{where} is refused by the chat template ({type(error).__name__}: {error})",
                "mend the record or the template",
                "messages",
            ) from error
        return text


def _marks(source: str) -> bool:
    """Whether a template says itself what the assistant says."""
    return re.search(r"\{%[-+]?\s*generation\b", source) is not None


def _messages(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str | bytes):
        value = json.loads(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"it is {type(value).__name__ if value else 'empty'}, not a list")
    return [_message(message) for message in value]


def _message(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a message is {type(value).__name__}")
    if "from" in value and "value" in value:
        return {"role": _ROLES.get(value["from"], value["from"]), "content": value["value"]}
    if not isinstance(value.get("role"), str):
        raise ValueError("a message has no role")
    return {key: entry for key, entry in value.items() if entry is not None or key == "content"}


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant said; in the text only where the environment is asked for marks."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads a plain class attribute

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        said = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        if not cast(_Bounded, self.environment).marks:
            return said
        begins, ends = (nodes.Output([nodes.TemplateData(mark)]) for mark in (BEGINS, ENDS))
        return [begins, *said, ends]


def _within_bounds(pieces: Iterable[str]) -> str:
    found: list[str] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_RECORD:
            raise _too_large()
        found.append(piece)
    return "".join(found)


def _too_large() -> jinja2.TemplateError:
    return jinja2.TemplateError(f"it makes a text of more than {MAX_RECORD >> 20} MiB")


class _Bounded(ImmutableSandboxedEnvironment):
    """A sandbox that also ends what would not end by itself, or make more than a record's size: passes through loops,
    calls and operations are counted, and products looked at before they are made."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, marks: bool = False) -> None:
        self.marks = marks
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.steps = 0
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        self.filters |= {"tojson": _as_json, _COUNTED: self._counted, _JOINED: self._joined}
        self.concat = _within_bounds  # type: ignore[method-assign]  # what macros and blocks make

    def _step(self) -> None:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise jinja2.TemplateError(f"it takes more than {_MOST_STEPS:,} steps")

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _joined(self, values: Iterable[Any]) -> str:
        return _within_bounds(map(str, values))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
        for joint in list(template.find_all(nodes.Concat)):
            values = nodes.List(joint.nodes, lineno=joint.lineno)
            joint.nodes = [nodes.Filter(values, _JOINED, [], [], None, None, lineno=joint.lineno)]
        return template

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        self._step()
        return super().call(context, function, *arguments, **named)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._step()
        repeated = operator == "*" and max(_length(left) * _size(right), _length(right) * _size(left))
        power = operator == "**" and _size(left).bit_length() * _size(right)
        if max(repeated, power) > MAX_RECORD:
            raise _too_large()
        found = super().call_binop(context, operator, left, right)
        if _length(found) > MAX_RECORD:
            raise _too_large()
        return found


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 0


def _size(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0


@lru_cache(maxsize=8)
def _opened(source: str, _thread: int, marks: bool) -> Callable[[Mapping[str, Any]], str]:
    """A template of this thread's own, compiled once: variables in, text out."""
    environment = _Bounded(marks)
    template = environment.from_string(source)

    def render(variables: Mapping[str, Any]) -> str:
        environment.steps = 0
        return _within_bounds(template.generate(variables))

    return render


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(_format: str) -> NoReturn:
    raise jinja2.TemplateError("the text would depend on the day on which it is added")


def _as_json(value: Any, **settings: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False} | settings)
