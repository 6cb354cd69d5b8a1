"""The server: uvicorn, in this process, until it is told to stop."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Sequence

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.photo import UserError
from pipeline.sources.unsplash import UnsplashSource, has_key
from pipeline.web.app import create
from pipeline.web.service import Service

CONNECTIONS = 200  # at a time; others are closed as they come
IDLE_S = 5  # that a connection may do nothing
HEAD_S = 10  # that the head of a request may take to come
GRACE_S = 3  # for what is under way when the server is told to stop


def serve(
    url: str, of: Sequence[str], host: str, port: int, token: str | None, started: Callable[[str, int], None]
) -> None:
    """Serve the archive at `url` until Ctrl-C or SIGTERM; `started` is told its address, and how many photos there are.

    Raises UserError for a port that cannot be had, and for an archive that cannot be searched.
    """
    listening = _listen(host, port)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        service = Service(url, of, unsplash=UnsplashSource.api_url if has_key() else None)
        try:
            service.warm()
            shown = f"[{host}]" if ":" in host else host
            started(f"http://{shown}:{listening.getsockname()[1]}/", service.builds[0].card["photos"])
            server = uvicorn.Server(configured(service, token))
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises again the signal that ended it
                server.run(sockets=[listening])
        finally:
            service.close()
    finally:
        signal.signal(signal.SIGTERM, before)
        listening.close()


def configured(service: Service, token: str | None = None) -> uvicorn.Config:
    """How uvicorn serves."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    return uvicorn.Config(
        create(service, token),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
        http=Protocol,
        ws="none",
        lifespan="off",
    )


class Protocol(H11Protocol):
    """uvicorn's, which waits for the head of a request for ever, with an end to that."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.close()
        self._head = self.loop.call_later(HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way and self._head:
            self._head.cancel()
            self._head = None
        elif not under_way and not self._head:
            self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def connection_lost(self, error: Exception | None) -> None:
        if self._head:
            self._head.cancel()
        super().connection_lost(error)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is said, or asyncio takes it for none of TCP and leaves Nagle's delay, 40 ms an answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(CONNECTIONS)  # who asks from now on waits until the application is there
    except OSError as error:
        listening.close()
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from error
    return listening
