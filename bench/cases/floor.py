"""The bare transports: two requests for each of N workers, nothing else.

Usage: floor.py httpx|aiohttp URL N. Prints {"wall": s, "cpu": s, "got": n}.
"""

import asyncio
import json
import resource
import sys
import time
from typing import Any

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": name,
            "parameters": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
        },
    }
    for name, key in (("read", "path"), ("submit_result", "summary"))
]


def request(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": "scripted", "messages": messages, "tools": TOOLS, "stream": False}


async def worker(post: Any, number: int) -> str:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": f"read README.md and report, token-{number:04d}"}
    ]
    answer = await post(request(messages))
    call = answer["choices"][0]["message"]["tool_calls"][0]
    messages += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "# a file"},
    ]
    answer = await post(request(messages))
    return str(
        json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])["summary"]
    )


async def main(kind: str, url: str, count: int) -> dict[str, float]:
    if kind == "httpx":
        import httpx

        async with httpx.AsyncClient(
            limits=httpx.Limits(max_connections=1000, max_keepalive_connections=1000), timeout=120
        ) as client:

            async def post(body: dict[str, Any]) -> Any:
                return (await client.post(f"{url}/chat/completions", json=body)).json()

            return await timed(post, count)

    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post_aiohttp(body: dict[str, Any]) -> Any:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                return await response.json()

        return await timed(post_aiohttp, count)


async def timed(post: Any, count: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    results = await asyncio.gather(*(worker(post, number) for number in range(count)))
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "got": len(set(results)),
    }


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
