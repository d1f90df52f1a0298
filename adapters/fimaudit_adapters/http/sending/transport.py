"""One send over HTTP: connections kept alive, TLS verified, no redirects, bounded in time and in bytes."""

from __future__ import annotations

import asyncio
import logging
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from fimaudit.errors import TargetError
from fimaudit_adapters.http.protocols.base import Body, Reply
from fimaudit_adapters.http.protocols.encoding import dump
from fimaudit_adapters.http.sending.auth import Credentials
from fimaudit_adapters.http.sending.faults import Fault, after_status
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["Transport", "Turn"]

#: Waits until rows may be sent, counts them, and says how many seconds their answer may take.
Turn = Callable[[], Awaitable[float]]

#: Of an error's body only this much is read: enough for a message.
ERROR_BODY = 64 * 2**10


class Transport:
    """Sends to one endpoint through httpx's transport, on one event loop.

    A client would add redirects, cookies and the logging of URLs, which are not wanted here, and a tenth of the time.

    Raises:
        TargetError: a credential is missing, or ``ca_file`` cannot be read.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        # Authentication plug-ins may use a client of their own, which logs full URLs at INFO.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._endpoint = endpoint
        verify = _verification(endpoint)
        self._credentials = Credentials(endpoint, verify)
        headers = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "Connection": "keep-alive", "User-Agent": "fimaudit"}
        self._headers = list(httpx.Headers({**headers, **endpoint.headers}).items())
        self._own_type = "content-type" in {name.lower() for name in (*endpoint.headers, *endpoint.header_env)}
        self._timeout = httpx.Timeout(None, connect=endpoint.timeout).as_dict()
        self._url, self._parsed = "", httpx.URL()
        try:
            self._http = httpx.AsyncHTTPTransport(
                verify=verify,
                trust_env=endpoint.trust_env,
                proxy=_proxy(endpoint),
                limits=httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency),
            )
        except (ValueError, ImportError, httpx.InvalidURL) as exc:
            raise TargetError(
                f"the proxy of the environment cannot be used ({type(exc).__name__}); set trust_env to false"
            ) from None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in a message."""
        return self._credentials.secrets()

    async def post(self, url: str, body: Body, seconds: float, turn: Turn | None = None) -> Reply:
        """Send one body; a ``Reply`` of status 2xx, or a ``Fault``.

        Args:
            url, body: what is sent.
            seconds: that this may take, without the waiting for ``turn``.
            turn: awaited right before the rows go out, each time they do: once a token is at hand, and again where the
                authentication sends them anew.
        """
        return await self._send(self._request(body.method, url, body), seconds, turn=turn)

    async def get(self, url: str, seconds: float = 10.0) -> Reply:
        """Ask for metadata; carries no rows."""
        return await self._send(self._request("GET", url, Body(b"", {})), seconds)

    async def prepared(self, url: str, body: Body) -> httpx.Request:
        """The request as it would be sent, credentials included, for somebody who masks them."""
        request = self._request(body.method, url, body)
        await self._credentials.complete(request)
        return request

    async def look(self, url: str, document: Any = None) -> Reply:
        """Ask for the result of work in the background; a redirect is a reply, as it may say where the result lies.

        Args:
            url: where to look.
            document: posted there; ``None`` posts nothing.
        """
        body = Body(b"", {}, "GET") if document is None else Body(dump(document))
        return await self._send(self._request(body.method, url, body), self._endpoint.timeout, redirects=True)

    async def close(self) -> None:
        await self._http.aclose()

    def _request(self, method: str, url: str, body: Body) -> httpx.Request:
        url = body.url or url
        if url != self._url:
            query = urlencode({name: _plain(value) for name, value in self._endpoint.url_query.items()})
            self._url, self._parsed = url, httpx.URL(_with_query(url, query))
        parsed = self._parsed if not body.query else httpx.URL(_with_query(str(self._parsed), body.query))
        extensions = {"timeout": self._timeout}
        # The user's own type of content is sent in place of the format's; a multipart form's holds its boundary.
        own = self._own_type and "boundary=" not in body.headers.get("Content-Type", "")
        given = [(name, value) for name, value in body.headers.items() if not (own and name == "Content-Type")]
        kept = self._headers if own or not given else [h for h in self._headers if h[0].lower() != "content-type"]
        return httpx.Request(
            method, parsed, content=self._credentials.within(body) or None, headers=[*kept, *given], extensions=extensions
        )

    async def _exchange(self, request: httpx.Request, turn: Callable[[], Awaitable[None]]) -> httpx.Response:
        """One answer, after as many requests as the authentication takes."""
        await self._credentials.complete(request)
        if self._credentials.plugin is not None:
            return await self._auth_flow(self._credentials.plugin, request, turn)
        await turn()
        response = await self._http.handle_async_request(request)
        if response.status_code == 401:
            try:
                renewed = await self._credentials.renewed(request)
            except BaseException:
                await response.aclose()
                raise
            if renewed:
                await response.aclose()
                await turn()
                return await self._http.handle_async_request(request)
        return response

    async def _auth_flow(
        self, plugin: httpx.Auth, request: httpx.Request, turn: Callable[[], Awaitable[None]]
    ) -> httpx.Response:
        """The answer that a plug-in ends with."""
        flow = plugin.async_auth_flow(request)
        try:
            sent = await anext(flow)
            while True:
                if sent.method == request.method and sent.url == request.url:  # rather than one for a token
                    await turn()
                response = await self._http.handle_async_request(sent)
                response.request = sent
                try:
                    if plugin.requires_response_body and (sent is not request or not response.is_success):
                        await response.aread()
                    sent = await flow.asend(response)
                except StopAsyncIteration:
                    return response
                except BaseException:
                    await response.aclose()
                    raise
                await response.aclose()
        finally:
            await flow.aclose()

    async def _send(
        self, request: httpx.Request, seconds: float, *, redirects: bool = False, turn: Turn | None = None
    ) -> Reply:
        async def wait_for_turn() -> None:
            nonlocal seconds
            if turn is not None:
                limit.reschedule(None)  # the wait is not the server's
                seconds = await turn()
                limit.reschedule(asyncio.get_running_loop().time() + seconds)

        try:
            # One limit for the whole request: httpx times each read by itself, and a slow drip would never end.
            at_once = turn is not None and self._credentials.at_hand
            async with asyncio.timeout(None if at_once else seconds) as limit:
                response = await self._exchange(request, wait_for_turn)
                try:
                    content = await (
                        _content(response, self._endpoint.max_response) if response.is_success else _start(response)
                    )
                finally:
                    if not response.is_closed:
                        await response.aclose()
        except TimeoutError:
            raise Fault("busy", "timeout", f"no complete answer within {seconds:.3g} s") from None
        except httpx.TimeoutException as exc:
            connected = not isinstance(exc, httpx.ConnectTimeout)
            raise Fault("busy", "timeout", "no answer in time", connected=connected) from None
        except httpx.ConnectError as exc:
            raise _unconnected(exc) from None
        except (httpx.TransportError, httpx.StreamError, ssl.SSLError) as exc:
            # TLS 1.3 refuses a client's certificate after the connection stands, which httpx passes on as it is.
            # After an unhandled 500 uvicorn resets the kept connection, and the next valid request meets it.
            raise Fault("transport", type(exc).__name__, f"the connection broke ({type(exc).__name__})") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise Fault("settings", "url", f"the URL cannot be asked ({type(exc).__name__})") from None
        if not response.is_success and not (redirects and response.has_redirect_location):
            raise after_status(response.status_code, response.headers, content, self.secrets)
        return Reply(response.status_code, response.headers, content)


def _with_query(url: str, query: str) -> str:
    """The URL with further parameters."""
    parts = urlsplit(url)
    return url if not query else urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, query]))))


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _verification(endpoint: Endpoint) -> ssl.SSLContext | bool:
    if endpoint.ca_file is None and endpoint.client_cert is None:
        return True
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise TargetError(f"ca_file {endpoint.ca_file} cannot be read as PEM certificates: {type(exc).__name__}") from None
    if endpoint.client_cert is not None:
        try:
            # An empty pass phrase, or OpenSSL would ask for one on the terminal.
            context.load_cert_chain(endpoint.client_cert, endpoint.client_key, password=lambda: "")
        except (OSError, ssl.SSLError) as exc:
            raise TargetError(
                f"client_cert {endpoint.client_cert} cannot be read as a certificate with its key, both in PEM and the key "
                f"without a pass phrase: {type(exc).__name__}"
            ) from None
    return context


def _proxy(endpoint: Endpoint) -> str | None:
    """The proxy that the environment names for this endpoint; HTTP_PROXY is honoured for 127.0.0.1 too."""
    if not endpoint.trust_env:
        return None
    url = urlsplit(endpoint.url)
    found = getproxies()
    proxy = found.get(url.scheme.lower()) or found.get("all")
    if proxy is None or proxy_bypass(url.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _unconnected(exc: httpx.ConnectError) -> Fault:
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = f"the server's certificate is not trusted ({cause.verify_message}); name its authority with ca_file"
            return Fault("settings", "tls", said, connected=False)
        if isinstance(cause, ssl.SSLError):
            return Fault("settings", "tls", f"TLS failed ({cause.reason or 'no reason given'})", connected=False)
    return Fault("transport", "connect", "nothing accepts connections there", connected=False)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception and what led to it, each once: one that is raised again later may stand behind itself."""
    one: BaseException | None = exc
    seen: set[int] = set()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _raw(response: httpx.Response) -> httpx.AsyncByteStream:
    """The body as it comes, or as a plug-in has read it."""
    stream = httpx.ByteStream(response.content) if response.is_stream_consumed else response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    return stream


async def _content(response: httpx.Response, most: int) -> bytes:
    """The body, unpacked here rather than by httpx: one packed chunk may unpack to a thousand times its size."""
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    unpack = _Unpack(packing) if packing not in ("", "identity") and not response.is_stream_consumed else None
    parts: list[bytes] = []
    size = raw = 0
    async for chunk in _raw(response):
        raw += len(chunk)
        part = chunk if unpack is None else unpack(chunk, most - size + 1)
        size += len(part)
        if size > most or raw > most:
            raise Fault("answer", "too-large", f"the answer exceeds {most} bytes (max_response)", unreadable=True)
        parts.append(part)
    if unpack is not None and not unpack.finished:
        raise Fault("answer", "cut", "the packed answer ends early", unreadable=True)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _start(response: httpx.Response) -> bytes:
    """The first bytes of an error's body; nothing where it is packed oddly or breaks off."""
    packed = "gzip" in response.headers.get("Content-Encoding", "").lower() and not response.is_stream_consumed
    unpack = _Unpack("gzip") if packed else None
    start = b""
    try:
        async for chunk in _raw(response):
            start += chunk[:ERROR_BODY] if unpack is None else unpack(chunk, ERROR_BODY)
            if len(start) >= ERROR_BODY:
                break
    except (Fault, httpx.TransportError):
        return b""
    return start


class _Unpack:
    """gzip or deflate, never more than asked for at a time."""

    def __init__(self, packing: str) -> None:
        if packing not in ("gzip", "x-gzip", "deflate"):
            raise Fault(
                "answer", "encoding", f"the answer is packed as {packing[:40]!r}, which was not offered", unreadable=True
            )
        self._engine: Any = zlib.decompressobj(wbits=47 if packing != "deflate" else zlib.MAX_WBITS)

    def __call__(self, chunk: bytes, most: int) -> bytes:
        try:
            return bytes(self._engine.decompress(chunk, max(1, most)))
        except zlib.error:
            raise Fault("answer", "packing", "the packed answer cannot be unpacked", unreadable=True) from None

    @property
    def finished(self) -> bool:
        return bool(self._engine.eof)
