"""The same work on langgraph, nothing durable. Usage: langgraph_case.py URL N WARM."""

import asyncio
import json
import sys
import time

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode


@tool
def read(path: str) -> str:
    """Read a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()[:2000]


@tool
def submit_result(summary: str) -> str:
    """Hand in the result."""
    return summary


async def main(url: str, count: int, warm: int) -> dict[str, float]:
    model = ChatOpenAI(model="scripted", base_url=url, api_key="test", max_retries=0, streaming=True)
    model_with_tools = model.bind_tools([read, submit_result])

    async def ask(state: MessagesState) -> dict[str, list[AIMessage]]:
        return {"messages": [await model_with_tools.ainvoke(state["messages"])]}

    def after(state: MessagesState) -> str:
        return END if state["messages"][-1].name == "submit_result" else "model"

    graph = StateGraph(MessagesState)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode([read, submit_result]))
    graph.add_edge(START, "model")
    graph.add_edge("model", "tools")
    graph.add_conditional_edges("tools", after, {"model": "model", END: END})
    agent = graph.compile()

    async def worker(number: int) -> str:
        text = f"read README.md and report, token-{number:04d}"
        answer = await agent.ainvoke({"messages": [HumanMessage(text)]})
        return str(answer["messages"][-1].content)

    for number in range(warm):
        await worker(9000 + number)
    wall, cpu = time.perf_counter(), time.process_time()
    results = await asyncio.gather(*(worker(number) for number in range(count)))
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "got": len(set(results))}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
