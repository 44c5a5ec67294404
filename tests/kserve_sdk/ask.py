"""KServe's client asks a server: `ask.py ADDRESS` with columns of rows on stdin; prints what it was told as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request(columns: dict[str, list[Any]], *, binary: bool) -> InferRequest:
    """Return a request: texts as BYTES, all else as FP32."""
    inputs = []
    for name, cells in columns.items():
        texts = isinstance(cells[0], str)
        tensor = InferInput(name, [len(cells)], "BYTES" if texts else "FP32")
        tensor.set_data_from_numpy(np.array(cells, dtype=np.object_ if texts else np.float32), binary_data=binary)
        inputs.append(tensor)
    outputs = [RequestedOutput("score", parameters={"binary_data": binary})]
    return InferRequest(model_name="shop", infer_inputs=inputs, request_id="order-66", request_outputs=outputs)


async def ask(address: str, columns: dict[str, list[Any]]) -> dict[str, Any]:
    """Ask for everything that the client can."""
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        told: dict[str, Any] = {
            "live": await client.is_server_live(address),
            "ready": await client.is_server_ready(address),
            "model": await client.is_model_ready(address, "shop"),
            "other": await client.is_model_ready(address, "other"),
        }
        for way, binary in (("json", False), ("binary", True)):
            answer = await client.infer(address, request(columns, binary=binary), model_name="shop")
            told[way] = {
                "id": answer.id,
                "model": answer.model_name,
                "score": answer.get_output_by_name("score").as_numpy().tolist(),
            }
        try:
            columns.pop("shop")
            await client.infer(address, request(columns, binary=False), model_name="shop")
        except httpx.HTTPStatusError as error:
            told["error"] = str(error)
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(sys.argv[1], json.load(sys.stdin)))))  # noqa: T201 - the script's result
