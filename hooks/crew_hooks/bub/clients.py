"""Clients of model providers, shared by all sessions."""

import asyncio
import contextlib
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from loguru import logger

from crew_plugin.engine.provider_gate import RequestGate, RequestGates

if TYPE_CHECKING:
    import httpx2
    from any_llm import AnyLLM
    from any_llm.providers.openai.base import BaseOpenAIProvider

__all__ = ["ClientPool", "built_clients"]

_CLOSE_SECONDS: Final = 2.0
_CONNECTIONS: Final = 4096
"""As many as a gate may ever let through. None would mean aiohttp's own 100."""
_KEPT_SECONDS: Final = 60.0
"""How long a connection that nobody uses stays open."""


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
            for close in _closers(client):
                with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await close()

    def __len__(self) -> int:
        return len(self._clients)


def built_clients(usual: Callable[[], list[tuple[str, dict[str, Any]]]]) -> "dict[str, AnyLLM]":
    """The clients of what `usual` names, for processes that are forked from this one: none has an event
    loop yet. One that cannot be built is left to the session that needs it."""
    built: dict[str, AnyLLM] = {}
    try:
        for provider, arguments in usual():
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

    def make(**ours: Any) -> "AnyLLM":
        given: dict[str, Any] = {**arguments, **ours, "unified_exceptions": True}
        unretried: dict[str, Any] = {**given, "max_retries": 0}
        try:
            return client(**unretried)
        except UnsupportedParameterError:  # this provider's SDK has no retries that could be switched off
            return client(**given)

    transport = _transport(client, arguments)
    if transport is None:
        return make()
    try:
        return make(http_client=transport)
    except Exception:  # noqa: BLE001 - whatever else is wrong with its arguments is raised by the second try
        # It gives them to a client of another SDK as well, which takes only its own kind of transport.
        return _moved(make(), transport)


def _moved(provider: "AnyLLM", transport: "httpx2.AsyncClient") -> "AnyLLM":
    """The provider with its client of OpenAI's SDK on our transport; its other clients stay as they are."""
    whole = cast("BaseOpenAIProvider", provider)
    own = whole.client
    whole.client = own.copy(http_client=transport)
    # Nobody uses it any more. It is kept so that it is closed with the others.
    vars(whole)["_replaced_client"] = own
    return provider


def _closers(client: object) -> "list[Callable[[], Awaitable[None]]]":
    """What closes the SDKs' clients of a provider: it may have more than one."""
    found = [getattr(part, "close", None) for part in getattr(client, "__dict__", {}).values()]
    return [close for close in found if inspect.iscoroutinefunction(close)]


def _transport(client: "type[AnyLLM]", arguments: Mapping[str, Any]) -> "httpx2.AsyncClient | None":
    """A transport for many calls at once, for providers that are clients of OpenAI's SDK.

    aiohttp's (Bub depends on aiohttp itself) spends a fraction of httpx's time when dozens of
    calls wait at once.
    """
    import openai
    from any_llm.providers.openai.base import BaseOpenAIProvider

    if "http_client" in arguments or not issubclass(client, BaseOpenAIProvider):
        return None
    import httpx2

    # Sized for a fan-out: a session waits at its gate, not for a connection. And a connection lives
    # through a tool call, so that the next request needs no handshake.
    limits = httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_KEPT_SECONDS)
    try:
        return openai.DefaultAioHttpClient(limits=limits)
    except RuntimeError:  # the SDK's word for "there is no aiohttp transport here"
        return None
