"""What the failure of a model call means, and when it is made again."""

import math
import random
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from crew_plugin.engine.provider_gate import LONGEST_PAUSE, Refused
from crew_plugin.errors import EngineError, EngineErrorKind

__all__ = ["back_off", "engine_error", "refusal"]

_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
_TOO_MUCH: Final = frozenset({429, 503, 529})
"""Statuses by which a provider says that it is asked too much."""

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
_ADVICE: Final[Mapping[EngineErrorKind, str]] = {
    "auth": "set BUB_API_KEY (or BUB_<PROVIDER>_API_KEY) and BUB_MODEL, or run `bub onboard`",
    "bad_request": "BUB_MODEL and the agent's `model` have the form provider:model",
}
_OVERLOADED = re.compile(r"overloaded", re.IGNORECASE)
_OVERFLOW = re.compile(
    r"context.{0,20}(length|window)|maximum.{0,20}context|prompt.{0,12}too long", re.IGNORECASE
)


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
