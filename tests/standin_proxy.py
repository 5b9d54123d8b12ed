"""A proxy on this machine: HTTP (requests and CONNECT) and SOCKS5, with a login if told. Every host is this machine."""

import select
import socket
import socketserver
import struct
import threading
from urllib.parse import urlsplit


class StandinProxy(socketserver.ThreadingTCPServer):
    """`asked` are the hosts that clients named, so that who resolves names can be seen."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, login: str = ""):
        super().__init__(("127.0.0.1", 0), _Connection)
        self.login, self.asked = login, []
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request, client_address):
        """Nothing: clients go away."""


class _Connection(socketserver.BaseRequestHandler):
    def handle(self):
        first = self.request.recv(1, socket.MSG_PEEK)
        if first == b"\x05":
            self._socks()
        elif first:
            self._http()

    def _socks(self) -> None:
        version_and_count = self._exactly(2)
        self._exactly(version_and_count[1])
        self.request.sendall(b"\x05\x00")
        _version, _command, _zero, kind = self._exactly(4)
        host = socket.inet_ntoa(self._exactly(4)) if kind == 1 else self._exactly(self._exactly(1)[0]).decode()
        (port,) = struct.unpack(">H", self._exactly(2))
        self.server.asked.append(f"socks {host}")
        with socket.create_connection(("127.0.0.1", port)) as other:
            self.request.sendall(b"\x05\x00\x00\x01\0\0\0\0\0\0")
            self._join(other)

    def _http(self) -> None:
        """One request for each connection, which ends with it."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := self.request.recv(65536)):
                return
            head += more
        method, target, _version = head.split(b"\r\n")[0].decode().split()
        if self.server.login and b"proxy-authorization" not in head.lower():
            self.request.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return
        if method == "CONNECT":
            host, _colon, port = target.partition(":")
            path = None
        else:
            parts = urlsplit(target)
            host, port, path = parts.hostname, parts.port, f"{parts.path}?{parts.query}"
        self.server.asked.append(f"{method} {host}")
        with socket.create_connection(("127.0.0.1", int(port))) as other:
            if path is None:
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                other.sendall(head.replace(target.encode(), path.encode(), 1).replace(b"keep-alive", b"close"))
            self._join(other)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not (more := self.request.recv(count - len(data))):
                raise ConnectionError
            data += more
        return data

    def _join(self, other: socket.socket) -> None:
        """Carry bytes both ways until one side ends."""
        pair = {self.request: other, other: self.request}
        while True:
            for ready in select.select(list(pair), [], [])[0]:
                if not (data := ready.recv(65536)):
                    return
                pair[ready].sendall(data)
