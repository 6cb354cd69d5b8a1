"""A host of pictures that answers as Flickr's does, and costs little: the programs that ask are to be measured, not it.

    python benchmarks/image_host.py FOLDER

It reads the files of the folder, listens on a port of loopback, which it prints, and answers /ANYTHING/NAME with the
file of that name until its input ends: HTTP/1.1, connections kept alive, JPEG in chunks without a Content-Length.
"""

import asyncio
import socket
import sys
from pathlib import Path

CHUNK = 16 << 10  # bytes
HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: image-host\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Type: image/jpeg\r\n"
    b'Cache-Control: max-age=315360000\r\nETag: "not-an-md5"\r\nTransfer-Encoding: chunked\r\nConnection: %s\r\n\r\n'
)
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"


def chunked(body: bytes) -> bytes:
    pieces = [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


class Host(asyncio.Protocol):
    """One connection. `bodies` holds, chunked already, the files by name."""

    def __init__(self, bodies: dict[bytes, bytes]) -> None:
        self.bodies = bodies
        self.asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    def data_received(self, data: bytes) -> None:
        self.asked += data
        while b"\r\n\r\n" in self.asked:
            request, _, self.asked = self.asked.partition(b"\r\n\r\n")
            last = b"connection: close" in request.lower()
            body = self.bodies.get(request.split(b" ", 2)[1].rpartition(b"/")[2])
            if body is None:
                self.transport.write(MISSING)
            else:
                self.transport.writelines([HEAD % (b"close" if last else b"keep-alive"), body])
            if last:
                self.transport.close()


async def serve(folder: Path) -> None:
    bodies = {path.name.encode(): chunked(path.read_bytes()) for path in folder.iterdir()}
    server = await asyncio.get_running_loop().create_server(lambda: Host(bodies), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
