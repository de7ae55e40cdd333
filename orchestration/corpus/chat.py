"""Conversations as text: a record's messages rendered by a chat template, in a sandbox, as published models' are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestration.corpus.places import BadRecord
from orchestration.errors import CorpusError

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
            _environment().from_string(self.source)
        except jinja2.TemplateError as error:
            raise CorpusError(f"chat_template: it is no template ({error}); give a Jinja template") from error

    def render(self, messages: Any, where: str) -> str:
        """The text of a conversation: a list of messages, or JSON of one. Raises BadRecord."""
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
        try:
            template = _environment().from_string(self.source)
            return template.render(messages=found, add_generation_prompt=False, **self.tokens)
        except Exception as error:  # the template is a program, and can raise anything
            raise BadRecord(
                f"{where} is refused by the chat template ({type(error).__name__}: {error})",
                "mend the record or the template",
                "messages",
            ) from error


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
    """``{% generation %}`` marks what the assistant said, which makes no difference to the text."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads a plain class attribute

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def now(_format: str) -> NoReturn:
        raise jinja2.TemplateError("the text would depend on the day on which it is added")

    def as_json(value: Any, **settings: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False} | settings)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": now}
    environment.filters["tojson"] = as_json
    return environment
