"""Clients of OpenAI's SDK that send a conversation as it is.

The SDK walks every message and every tool schema of a request against its type hints before
each call, which changes nothing in plain JSON and took a quarter of the CPU of a session.
"""

import functools
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from any_llm import AnyLLM
from any_llm.providers.openai.base import BaseOpenAIProvider
from any_llm.types.completion import ChatCompletion, ChatCompletionChunk

__all__ = ["lean_class"]

Answer = ChatCompletion | AsyncIterator[ChatCompletionChunk]


class _Lean:
    """Put before a provider's class: hands messages and tools over in `extra_body`, which the
    SDK copies into the request untouched."""

    async def acompletion(
        self,
        model: str,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Answer:
        whole = cast("Any", super())
        if any(_carries_signatures(message) for message in messages):
            # any-llm keeps what other providers sent along there, and takes it out itself.
            return cast(
                "Answer",
                await whole.acompletion(model, messages, tools=tools, extra_body=extra_body, **others),
            )
        body = {**(extra_body or {}), "messages": messages, **({"tools": tools} if tools else {})}
        return cast("Answer", await whole.acompletion(model, messages[:1], extra_body=body, **others))


def _carries_signatures(message: Mapping[str, Any]) -> bool:
    return "extra_content" in message or any(
        "extra_content" in call for call in message.get("tool_calls") or ()
    )


@functools.cache
def lean_class(provider: str) -> type[AnyLLM]:
    """The provider's class, made lean if its requests are plain ones of OpenAI's SDK."""
    theirs = AnyLLM.get_provider_class(provider)
    plain = BaseOpenAIProvider
    if (
        not issubclass(theirs, plain)
        or theirs._acompletion is not plain._acompletion
        or theirs._convert_completion_params is not plain._convert_completion_params
    ):
        return theirs
    return cast("type[AnyLLM]", type(f"Lean{theirs.__name__}", (_Lean, theirs), {}))
