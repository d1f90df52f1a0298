"""The simulated network for the client that authlib asks for tokens: httpx's or, where it is there, httpx2's."""

from __future__ import annotations

import warnings
from typing import Any

import httpx

from tests.simulation.network import Network

with warnings.catch_warnings(record=True):
    from authlib.integrations.httpx_client import oauth2_client

__all__ = ["bridged", "tokens_library"]

tokens_library: Any = oauth2_client.httpx2


def bridged(network: Network) -> Any:
    """A transport of that library."""
    return network if tokens_library is httpx else _Bridge(network)


class _Bridge(tokens_library.AsyncBaseTransport):
    def __init__(self, network: Network) -> None:
        self._network = network

    async def handle_async_request(self, request: Any) -> Any:
        asked = httpx.Request(
            request.method, str(request.url), headers=list(request.headers.items()), content=await request.aread()
        )
        try:
            answer = await self._network.handle_async_request(asked)
            content = await answer.aread()
        except httpx.TransportError as exc:
            raise getattr(tokens_library, type(exc).__name__)(str(exc)) from None
        return tokens_library.Response(answer.status_code, headers=list(answer.headers.items()), content=content)
