"""A ring of TCP connections beside MPI: each rank tells the next one, the last tells the first."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from dhhpc.mpi.world import World

# To connect to a neighbour and to be connected to, in seconds.
CONNECTING = 10.0
# Bytes read at once, and kept for a rank that takes nothing in; longer than any message.
PIECE = 2**16


@dataclass(frozen=True)
class Place:
    """Where a rank is."""

    rank: int
    host: str
    pid: int
    port: int

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (pid {self.pid})"


class Ring:
    """The connections of one rank. Messages are objects of JSON, one a line.

    A rank that dies closes its connections, whatever it was doing, which its neighbours learn at once.
    Nothing goes through MPI or a file system, which may be what hangs.

    All ranks must make it together: each has a socket listen on a free port, all are told all ports through
    MPI (some 60 bytes a rank, once), and each connects to the next one by its host's name. Who connects must
    know a secret that rank 0 has drawn. Four file descriptors a rank are left.

    Attributes:
        before, mine, after: this rank's place, those whose messages come in and who gets those sent.
        problems: one line for each rank that could not be connected to the next one; the same on every rank.
    """

    def __init__(self, world: World) -> None:
        with socket.create_server(("", 0)) as listener:
            self.mine = mine = Place(world.rank, world.host, os.getpid(), listener.getsockname()[1])
            places = world.allgather_object(mine)
            secret = world.broadcast_object(secrets.token_hex(16))
            self.before, self.after = places[world.rank - 1], places[(world.rank + 1) % world.size]
            problem = None
            self.outgoing: socket.socket | None = None
            try:
                self.outgoing = connect_to(self.after, mine, secret)
            except OSError as error:
                problem = (
                    f"{self.after} cannot be reached at port {self.after.port} from {mine.host} "
                    f"({error.strerror or error})"
                )
            world.barrier()  # all that could be reached have been by now, so that nobody waits in vain
            self.incoming = accepted(listener, secret)
        self._received = self._unsent = b""
        self._waking, self._woken = socket.socketpair()
        self.problems = [line for line in world.allgather_object(problem) if line]

    def send(self, **message: Any) -> None:
        """Send a message to the next rank, without waiting for it; one that takes nothing in misses some."""
        if self.outgoing is None:
            return
        if len(self._unsent) < PIECE:
            self._unsent += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._unsent = self._unsent[self.outgoing.send(self._unsent) :]

    def wake(self) -> None:
        """Another thread has `receive` come back at once, from now on."""
        self._waking.send(b"\n")

    def receive(self, seconds: float) -> list[dict[str, Any]] | None:
        """What the rank before has said within so many seconds; None when it has closed the connection."""
        poll = select.poll()  # select takes no file descriptor above 1023
        for end in (self._woken, self.incoming):
            if end is not None:
                poll.register(end, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        if self.incoming is None or self.incoming.fileno() not in ready:
            return []
        try:
            piece = self.incoming.recv(PIECE)
        except OSError:
            piece = b""
        if not piece:
            self.leave()
            return None
        *lines, self._received = (self._received + piece).split(b"\n")
        return [json.loads(line) for line in lines]

    def leave(self) -> None:
        """The rank before says no more."""
        if self.incoming is not None:
            self.incoming.close()
            self.incoming = None

    def close(self) -> None:
        """Leave both neighbours."""
        for end in (self.incoming, self.outgoing, self._waking, self._woken):
            if end is not None:
                end.close()
        self.incoming = self.outgoing = None


def connect_to(place: Place, mine: Place, secret: str) -> socket.socket:
    """A connection that knows the secret, and never keeps who sends waiting.

    Raises:
        OSError: there is no way.
    """
    host = "127.0.0.1" if place.host == mine.host else place.host
    connection = socket.create_connection((host, place.port), timeout=CONNECTING)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(secret.encode())
    connection.setblocking(False)
    return connection


def accepted(listener: socket.socket, secret: str) -> socket.socket | None:
    """The connection that knows the secret, among those that wait already; None if there is none."""
    listener.settimeout(0.1)
    end = time.monotonic() + CONNECTING
    while time.monotonic() < end:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return None
        connection.settimeout(1.0)
        with contextlib.suppress(OSError):
            if secrets.compare_digest(connection.recv(len(secret), socket.MSG_WAITALL), secret.encode()):
                connection.setblocking(False)
                return connection
        connection.close()
    return None
