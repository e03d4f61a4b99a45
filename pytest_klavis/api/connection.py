"""One HTTP exchange on a connection of its own, under one deadline; knows nothing of Klavis.

Why not `httpx.Client`: it counts its timeouts per chunk, so a server that drips keeps a call for ever; it logs whole
URLs, and ours are capabilities; and users' mocks (pytest-httpx, respx) patch it, whose tests would then be handed
our calls. So its engine, httpcore, is driven directly. A connection lives for one exchange: there is none that the
server may have closed just when an acquire is sent on it, none to leak, and nothing that threads or forks share.
"""

from __future__ import annotations

import ssl
import urllib.request
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from pytest_klavis.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__tracebackhide__ = True  # users read their own frames

_SLICE = 16 * 1024
_LOST = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Deadline:
    """A deadline: `seconds` from now, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = monotonic() + seconds

    def left(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._end - monotonic())


class Fault(Exception):  # noqa: N818 (it never leaves the rooms that travel; errors.py has what users see)
    """No answer, or not a whole one. `sent`: the request may have arrived. `final`: trying again is of no use."""

    def __init__(self, reason: str, *, sent: bool, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent
        self.final = final


@contextmanager
def exchange(request: httpx.Request, clock: Deadline, connect_timeout: float) -> Iterator[httpcore.Response]:
    """Send a request; inside the block its answer's status, headers and stream can be read, all before the deadline.

    Raises Fault for everything that the network can do, also while the block reads. Redirects are not followed.
    """
    connection: httpcore.ConnectionInterface | httpcore.HTTPProxy | None = None
    sent = False
    try:
        connection = _connect(request.url, clock, connect_timeout)
        sent = True
        yield connection.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(str(request.url)),
                headers=request.headers.raw,
                content=request.stream,
                extensions={"timeout": {"connect": connect_timeout}},
            )
        )
    except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.ProxyError, httpcore.UnsupportedProtocol) as error:
        reason, final = _connect_trouble(error)
        raise Fault(reason, sent=False, final=final) from None
    except _LOST as error:
        raise _lost(error, clock, sent=sent) from None
    finally:
        if connection is not None:
            connection.close()


def read_body(response: httpcore.Response, clock: Deadline, limit: int) -> tuple[bytes, Fault | None]:
    """Read an answer's body whole. Where that fails or it is longer than `limit` bytes: what came, and the fault."""
    received = bytearray()
    try:
        for chunk in response.iter_stream():
            received += chunk
            if len(received) > limit:
                reason = f"its answer is larger than {limit:,} bytes"
                return bytes(received[:limit]), Fault(reason, sent=True, final=True)
    except _LOST as error:
        return bytes(received), _lost(error, clock, sent=True)
    return bytes(received), None


def _lost(error: Exception, clock: Deadline, *, sent: bool) -> Fault:
    """Return the fault for a connection that was made and then failed."""
    if isinstance(error, httpcore.TimeoutException):  # only the deadline ends a wait
        return Fault(f"no whole answer within {clock.seconds:g} s", sent=sent, final=True)
    return Fault(str(error) or type(error).__name__, sent=sent)


def _connect_trouble(error: Exception) -> tuple[str, bool]:
    """Return what to say of a connection that was not made, and whether it is no use to try again."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names more roots", True
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectTimeout):
        return "connecting timed out", False
    reason = str(error) or type(error).__name__
    if isinstance(error, _BlockedError):
        return reason, True
    if isinstance(error, httpcore.ProxyError | httpcore.UnsupportedProtocol):
        return f"the proxy refused: {reason}", True
    return reason, False


def _connect(
    url: httpx.URL, clock: Deadline, connect_timeout: float
) -> httpcore.ConnectionInterface | httpcore.HTTPProxy:
    network = _ClockedNetwork(clock)
    proxy = _proxy(url)
    if proxy is not None:
        user, password = proxy.username, proxy.password
        return httpcore.HTTPProxy(
            str(proxy.copy_with(username=None, password=None)),
            proxy_auth=(user, password) if user or password else None,
            ssl_context=_trust() if url.scheme == "https" else None,
            network_backend=network,
        )
    host = url.raw_host.decode("ascii")
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    stream = network.connect_tcp(host, port, timeout=connect_timeout)
    if secure:
        try:
            stream = stream.start_tls(_trust(), server_hostname=host, timeout=connect_timeout)
        except BaseException:
            stream.close()
            raise
    return httpcore.HTTP11Connection(httpcore.URL(str(url)).origin, stream)


@cache
def _trust() -> ssl.SSLContext:
    """The roots that are trusted: certifi's, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    return httpx.create_ssl_context()


def _proxy(url: httpx.URL) -> httpx.URL | None:
    """The proxy that the environment names for a URL (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY)."""
    if url.host in _LOOPBACK or url.host.startswith("127."):
        return None
    proxies = urllib.request.getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or urllib.request.proxy_bypass(url.host):
        return None
    proxy = httpx.URL(named if "://" in named else f"http://{named}")
    if proxy.scheme not in ("http", "https"):
        message = f"{proxy.scheme} proxies are not spoken here; name an http proxy, or the host in NO_PROXY"
        raise httpcore.UnsupportedProtocol(message)
    return proxy


class _BlockedError(httpcore.ConnectError):
    """Something in this process does not let the connection be made."""

    def __init__(self, host: str, error: Exception) -> None:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        blocker = str(trace.tb_frame.f_globals.get("__name__")) if trace else ""
        reason = str(error) or type(error).__name__
        if blocker.startswith("pytest_socket"):
            super().__init__(
                f"pytest-socket blocked the connection ({reason}): allow it with --allow-hosts={host}, "
                "or with @pytest.mark.enable_socket on the test"
            )
        else:
            super().__init__(f"the connection was stopped in {blocker}: {type(error).__name__}: {reason}")


class _ClockedNetwork(httpcore.NetworkBackend):
    """The plain network, with no wait of any of its streams beyond the deadline."""

    def __init__(self, clock: Deadline) -> None:
        self._clock = clock
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        patience = _patience(self._clock, timeout, httpcore.ConnectTimeout)
        try:
            stream = self._network.connect_tcp(host, port, patience, local_address, socket_options)
        except (httpcore.ConnectError, httpcore.ConnectTimeout):
            raise
        except Exception as error:  # noqa: BLE001  a guard may raise anything
            raise _BlockedError(host, error) from None
        return _ClockedStream(stream, self._clock)


class _ClockedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, clock: Deadline) -> None:
        self._stream = stream
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _patience(self._clock, timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In slices, because the stream below starts its timeout anew for each part that the peer takes.
        for start in range(0, len(buffer), _SLICE):
            patience = _patience(self._clock, timeout, httpcore.WriteTimeout)
            self._stream.write(buffer[start : start + _SLICE], patience)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        patience = _patience(self._clock, timeout, httpcore.ConnectTimeout)
        return _ClockedStream(self._stream.start_tls(ssl_context, server_hostname, patience), self._clock)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _patience(clock: Deadline, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
    """Return how long one wait may be: what is left, and no more than `timeout`."""
    left = clock.left()
    if left <= 0:
        raise late
    return left if timeout is None else min(left, timeout)
