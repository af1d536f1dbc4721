"""Links that break: a TCP proxy for each agent, all on one asyncio loop in a thread of its own."""

import asyncio
import contextlib
import random
import socket
import struct
import threading

TO_SERVER, TO_AGENT = "to the server", "to the agent"
# What vanishes in each kind of stall. A held link loses nothing: it is not read, so that the senders' buffers fill.
STALLS = {"vanish to server": {TO_SERVER}, "vanish to agent": {TO_AGENT}, "vanish both ways": {TO_SERVER, TO_AGENT},
          "held": set()}


class Connection:
    """One connection of an agent. `doomed`: bytes of it have vanished, so it can never be whole again."""

    def __init__(self, to_agent, to_server):
        self.writers = {TO_AGENT: to_agent, TO_SERVER: to_server}
        self.doomed = False
        self.dead = False

    def reset(self):
        for writer in self.writers.values():
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError, AttributeError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Link:
    """The way from one agent to the server."""

    def __init__(self, loop, target, seed):
        self.loop, self.target = loop, target
        self.chance = random.Random(seed)
        self.kind = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.connections = set()
        self.server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self.serve, "127.0.0.1", 0), loop).result()
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def stall(self, kind):
        """Stalls it, the connections that are there and new ones."""
        self.loop.call_soon_threadsafe(self._stall, kind)

    def heal(self):
        """Ends the stall. Of the connections that lost bytes one half is reset, the other half stays a black hole until
        its ends give up, as behind a NAT that has forgotten it: bytes never vanish from the middle of a TCP stream."""
        self.loop.call_soon_threadsafe(self._heal)

    def cut(self):
        """Resets all connections."""
        self.loop.call_soon_threadsafe(self._cut)

    def _stall(self, kind):
        self.kind = kind
        if kind == "held":
            self.flowing.clear()

    def _heal(self):
        self.kind = None
        self.flowing.set()
        for connection in self.connections:
            if connection.doomed and not connection.dead:
                connection.dead = True
                if self.chance.random() < 0.5:
                    connection.reset()

    def _cut(self):
        for connection in self.connections:
            connection.reset()

    async def serve(self, from_agent, to_agent):
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target())
        except OSError:
            to_agent.transport.abort()
            return
        connection = Connection(to_agent, to_server)
        self.connections.add(connection)
        try:
            await asyncio.gather(self.pump(connection, from_agent, TO_SERVER),
                                 self.pump(connection, from_server, TO_AGENT))
        finally:
            self.connections.discard(connection)
            to_agent.transport.abort()
            to_server.transport.abort()

    async def pump(self, connection, reader, direction):
        writer = connection.writers[direction]
        with contextlib.suppress(OSError):
            while data := await reader.read(16 * 1024):
                await self.flowing.wait()
                if connection.dead:
                    continue
                if self.kind and direction in STALLS[self.kind]:
                    connection.doomed = True
                    continue
                writer.write(data)
                await writer.drain()
        # A direction that is stalled says nothing of its end either.
        while self.kind and (self.kind == "held" or direction in STALLS[self.kind]):
            await asyncio.sleep(0.1)
        if not connection.dead:
            writer.close()


class Links:
    """All of them."""

    def __init__(self, names, target, seed):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.links = {name: Link(self.loop, target, f"{seed} {name}") for name in names}

    def __getitem__(self, name):
        return self.links[name]
