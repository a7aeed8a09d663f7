"""The same work on pydantic-ai, nothing durable. Usage: pydantic_ai_case.py URL N WARM."""

import asyncio
import json
import sys
import time

from pydantic import BaseModel
from pydantic_ai import Agent, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Report(BaseModel):
    """What a worker hands in."""

    summary: str


def read(path: str) -> str:
    """Read a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()[:2000]


async def main(url: str, count: int, warm: int) -> dict[str, float]:
    model = OpenAIChatModel("scripted", provider=OpenAIProvider(base_url=url, api_key="test"))
    agent = Agent(model, tools=[read], output_type=ToolOutput(Report, name="submit_result"))

    async def worker(number: int) -> str:
        answer = await agent.run(f"read README.md and report, token-{number:04d}")
        return str(answer.output.summary)

    for number in range(warm):
        await worker(9000 + number)
    wall, cpu = time.perf_counter(), time.process_time()
    results = await asyncio.gather(*(worker(number) for number in range(count)))
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "got": len(set(results))}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
