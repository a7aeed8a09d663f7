"""Clients of model providers, shared by all sessions, and what their failures mean."""

import asyncio
import contextlib
import json
import math
import random
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from loguru import logger

from crew_plugin.engine.provider_gate import (
    LONGEST_PAUSE,
    Refused,
    RequestGate,
    RequestGates,
)
from crew_plugin.errors import EngineError, EngineErrorKind

if TYPE_CHECKING:
    from any_llm import AnyLLM

__all__ = ["ClientPool", "back_off", "built_clients", "engine_error", "refusal"]

_CLOSE_SECONDS: Final = 2.0
_CONNECTIONS: Final = 4096
"""As many as a gate may ever let through. None would mean aiohttp's own 100."""
_KEPT_SECONDS: Final = 60.0
"""How long a connection that nobody uses stays open."""
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
_TOO_MUCH: Final = frozenset({429, 503, 529})
"""Statuses by which a provider says that it is asked too much."""

_ADVICE: Final[Mapping[EngineErrorKind, str]] = {
    "auth": "set BUB_API_KEY (or BUB_<PROVIDER>_API_KEY) and BUB_MODEL, or run `bub onboard`",
    "bad_request": "BUB_MODEL and the agent's `model` have the form provider:model",
}
_OVERLOADED = re.compile(r"overloaded", re.IGNORECASE)
_OVERFLOW = re.compile(
    r"context.{0,20}(length|window)|maximum.{0,20}context|prompt.{0,12}too long", re.IGNORECASE
)


class ClientPool:
    """One client per provider, key, base and arguments, built in a thread when first needed.

    Building one means an SSL context, about 30 ms of CPU: too much for the host's loop and far
    too much to repeat for every session. `close` ends them all.
    """

    def __init__(self, gates: RequestGates, built: "Mapping[str, AnyLLM] | None" = None) -> None:
        """`built` are clients that were made before, in what this process was forked from."""
        self._built = built or {}
        self._clients: dict[str, asyncio.Task[AnyLLM]] = {}
        self._gates = gates

    def gate(self, provider: str, arguments: Mapping[str, Any]) -> RequestGate:
        """The gate that each request with these arguments goes through."""
        return self._gates.gate(provider, arguments.get("api_base"), arguments.get("api_key"))

    async def get(self, provider: str, arguments: Mapping[str, Any]) -> "AnyLLM":
        """The client for this provider and these arguments. Raises what building it raised."""
        key = _key(provider, arguments)
        if key in self._built:
            return self._built[key]
        building = self._clients.get(key)
        if building is None:
            # A task of its own: whichever session asks first may be cancelled, the others wait on.
            building = asyncio.create_task(asyncio.to_thread(_build, provider, dict(arguments)))
            self._clients[key] = building
        try:
            return await asyncio.shield(building)
        except Exception:
            if self._clients.get(key) is building and building.done():
                del self._clients[key]
            raise

    async def close(self) -> None:
        """Close every client. One that cannot be closed does not keep the others open."""
        building, self._clients = list(self._clients.values()), {}
        for client in [*self._built.values(), *await asyncio.gather(*building, return_exceptions=True)]:
            close = getattr(getattr(client, "client", None), "close", None)
            if close is not None:
                with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await close()

    def __len__(self) -> int:
        return len(self._clients)


def built_clients() -> "dict[str, AnyLLM]":
    """The clients of the usual model, for processes that are forked from this one: none has an event loop
    yet. One that cannot be built is left to the session that needs it."""
    from crew_hooks.bub.compat.runner import usual_clients

    built: dict[str, AnyLLM] = {}
    try:
        for provider, arguments in usual_clients():
            built[_key(provider, arguments)] = _build(provider, dict(arguments))
    except Exception as error:  # noqa: BLE001 - see above
        logger.debug("crew: the clients of the usual model could not be built: {!r}", error)
    return built


def _key(provider: str, arguments: Mapping[str, Any]) -> str:
    return f"{provider} {json.dumps(arguments, sort_keys=True, default=repr)}"


def _build(provider: str, arguments: dict[str, Any]) -> "AnyLLM":
    from any_llm.constants import LLMProvider
    from bub.builtin.model_runner import ModelRunner
    from bub.builtin.settings import ModelCandidate

    # Bub's own choice first: it has a client of its own for one way to log in. That it decides
    # by key and base alone is why the model does not matter here.
    if provider == "openai" and not arguments.get("api_base"):
        candidate = ModelCandidate(provider=LLMProvider.OPENAI, model_id="", name="openai:")
        client = ModelRunner.create_llm_client(candidate, dict(arguments))
        if type(client).__module__.startswith("bub."):
            return client
    return _create(provider, arguments)


def _create(provider: str, arguments: dict[str, Any]) -> "AnyLLM":
    from any_llm.exceptions import UnsupportedParameterError

    from crew_hooks.bub.lean import lean_class

    client = lean_class(provider)
    ours: dict[str, Any] = {**_transport(client, arguments), "unified_exceptions": True}
    unretried: dict[str, Any] = {**arguments, **ours, "max_retries": 0}
    try:
        return client(**unretried)
    except UnsupportedParameterError:  # this provider's SDK has no retries that could be switched off
        return client(**{**arguments, **ours})


def _transport(client: "type[AnyLLM]", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A transport for many calls at once, for providers that are clients of OpenAI's SDK.

    aiohttp's (Bub depends on aiohttp itself) spends a fraction of httpx's time when dozens of
    calls wait at once.
    """
    import openai
    from any_llm.providers.openai.base import BaseOpenAIProvider

    if "http_client" in arguments or not issubclass(client, BaseOpenAIProvider):
        return {}
    import httpx2

    # Sized for a fan-out: a session waits at its gate, not for a connection. And a connection lives
    # through a tool call, so that the next request needs no handshake.
    limits = httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_KEPT_SECONDS)
    try:
        return {"http_client": openai.DefaultAioHttpClient(limits=limits)}
    except RuntimeError:  # the SDK's word for "there is no aiohttp transport here"
        return {}


def back_off(attempt: int, wish: float | None) -> float:
    """Seconds to wait before trying again: the provider's own wish, else doubling with jitter."""
    ceiling = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (attempt - 1))
    jittered = ceiling * random.uniform(0.5, 1.0)
    return jittered if wish is None else wish + 0.1 * jittered


def engine_error(error: Exception, model: str) -> EngineError:
    """What a failed model call means: its kind, whether trying again can help, and what to do."""
    if isinstance(error, EngineError):
        return error
    kind = _kind(error)
    wish = _wish(error)
    retryable = kind in ("rate_limit", "overloaded", "timeout", "network") and (wish or 0) <= LONGEST_PAUSE
    text = _network_text(error) if kind == "network" else str(error) or type(error).__name__
    advice = f"; {_ADVICE[kind]}" if kind in _ADVICE else ""
    return EngineError(
        kind, f"{_SAID[kind]} ({model}): {text}{advice}", retryable=retryable, retry_after=wish
    )


_SAID: Final[Mapping[EngineErrorKind, str]] = {
    "auth": "the model provider did not accept the key",
    "rate_limit": "the model provider limits the rate of requests",
    "overloaded": "the model provider is failing or overloaded",
    "timeout": "the model provider did not answer in time",
    "network": "the connection to the model provider failed",
    "context_overflow": "the conversation is longer than the model's context",
    "bad_request": "the model provider rejected the request",
    "unknown": "the model call failed",
}


def _kind(error: Exception) -> EngineErrorKind:
    from any_llm import exceptions as known

    kinds: tuple[tuple[type[Exception], EngineErrorKind], ...] = (
        (known.MissingApiKeyError, "auth"),
        (known.AuthenticationError, "auth"),
        (known.InsufficientFundsError, "auth"),
        (known.ContextLengthExceededError, "context_overflow"),
        (known.RateLimitError, "rate_limit"),
        (known.UpstreamProviderError, "overloaded"),
        (known.GatewayTimeoutError, "timeout"),
        (known.UnsupportedParameterError, "bad_request"),
        (known.UnsupportedProviderError, "bad_request"),
        (known.InvalidRequestError, "bad_request"),
        (known.ModelNotFoundError, "bad_request"),
        (known.ContentFilterError, "bad_request"),
        (TimeoutError, "timeout"),
        (ConnectionError, "network"),
        (ImportError, "bad_request"),
        (ValueError, "bad_request"),
    )
    if _OVERFLOW.search(str(error)) and _status_of(error) in (None, 400, 413, 422):
        return "context_overflow"
    for wanted, kind in kinds:
        if isinstance(error, wanted):
            return kind
    return _kind_of_transport(error)


def _kind_of_transport(error: Exception) -> EngineErrorKind:
    """For errors that carry no class of their own: by status, else by what the transport raised."""
    status = _status_of(error)
    if status is not None and status != 200:
        return "overloaded" if status >= 500 or status in (408, 409) else "bad_request"
    causes = _chain(error)
    if any(isinstance(cause, OSError) and not isinstance(cause, TimeoutError) for cause in causes):
        return "network"  # before the names: a transport may call a refused connection a time-out
    names = {cls.__name__ for cause in causes for cls in type(cause).__mro__}
    if any("Timeout" in name for name in names):
        return "timeout"
    if names & {
        "TransportError",
        "APIConnectionError",
        "ClientError",
        "APIError",
        "OSError",
        "JSONDecodeError",
    }:
        return "network"
    return "unknown"


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        original = getattr(current, "original_exception", None)
        current = (
            original if isinstance(original, BaseException) else current.__cause__ or current.__context__
        )
    return found


def _network_text(error: Exception) -> str:
    """What the operating system said: an SDK may call a refused connection a time-out."""
    said = [str(cause) for cause in _chain(error) if isinstance(cause, OSError) and str(cause)]
    return said[0] if said else str(error) or type(error).__name__


def _status_of(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def refusal(error: BaseException) -> Refused | None:
    """What a failed call says about how much its provider takes; None if it says nothing."""
    if not isinstance(error, Exception):
        return None
    from any_llm.exceptions import RateLimitError

    chain = _chain(error)
    if any(isinstance(cause, RateLimitError) or _status_of(cause) in _TOO_MUCH for cause in chain):
        return Refused(_wish(error))
    return Refused(_wish(error)) if _OVERLOADED.search(str(error)) else None


def _wish(error: Exception) -> float | None:
    """The pause that the provider asked for, in seconds, however it said so."""
    chain = _chain(error)
    answers: list[Mapping[str, str]] = [
        getattr(getattr(cause, "response", None), "headers", None) or {} for cause in chain
    ]
    for cause, headers in zip(chain, answers, strict=True):
        said = getattr(cause, "retry_after", None) or headers.get("retry-after")
        if said is not None:
            return _seconds(str(said), next(filter(None, (each.get("date") for each in answers)), None))
    return None


def _seconds(said: str, answered_at: str | None) -> float | None:
    """How long from now. A date is compared with the provider's own clock, where it tells that."""
    try:
        seconds = float(said)
    except ValueError:
        try:
            date = parsedate_to_datetime(said).timestamp()
            now = time.time() if answered_at is None else parsedate_to_datetime(answered_at).timestamp()
        except ValueError:
            return None  # nobody's notation: our own back-off is as good
        seconds = date - now
    return max(0.0, seconds) if math.isfinite(seconds) else None
