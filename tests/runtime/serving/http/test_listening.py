"""The socket that the server listens at."""

import socket

from latentrt.runtime.serving.http.server import listening


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio sees to that (TCP_NODELAY) for sockets that name their protocol alone; else it is 40 ms an answer."""
    with listening("127.0.0.1", 0) as opened:
        assert opened.proto == socket.IPPROTO_TCP
