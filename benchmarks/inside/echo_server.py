"""The least that a server on the same stack does: read a request's body and send it back. Settings as `mlops serve`'s."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def echo(request: Request) -> Response:
    """Answer with the body."""
    return Response(await request.body(), media_type="application/json")


def main(port: int) -> None:
    """Serve until a signal."""
    uvicorn.run(
        Starlette(routes=[Route("/echo", echo, methods=["POST"])]),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
