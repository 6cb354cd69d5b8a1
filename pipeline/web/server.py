"""The server: uvicorn, in this process, until it is told to stop."""

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

import uvicorn

from pipeline.photo import UserError
from pipeline.web.app import create
from pipeline.web.service import Service

CONNECTIONS = 200  # at a time; beyond that, 503
IDLE_S = 5  # that a connection may do nothing
GRACE_S = 3  # for what is under way when the server is told to stop


def serve(
    url: str, of: Sequence[str], host: str, port: int, token: str | None, started: Callable[[str, int], None]
) -> None:
    """Serve the archive at `url` until Ctrl-C; `started` is told the page's address, and how many photos there are.

    Raises UserError for a port that cannot be had, and for an archive that cannot be searched.
    """
    listening = _listen(host, port)
    try:
        service = Service(url, of)
        try:
            service.warm()
            config = uvicorn.Config(
                create(service, token),
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=GRACE_S,
                ws="none",
                lifespan="off",
            )
            logging.getLogger("uvicorn").setLevel(logging.ERROR)
            shown = f"[{host}]" if ":" in host else host
            started(f"http://{shown}:{listening.getsockname()[1]}/", service.builds[0].card["photos"])
            server = uvicorn.Server(config)
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises again the signal that ended it
                server.run(sockets=[listening])
        finally:
            service.close()
    finally:
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from error
    return listening
