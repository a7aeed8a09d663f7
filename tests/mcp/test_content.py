"""What a model sees of the answers of servers."""

import pytest

from crew_plugin.mcp.content import Answer, Block, render

pytestmark = pytest.mark.anyio


async def test_without_a_place_to_keep_it_the_size_is_still_told() -> None:
    answer = Answer(blocks=(Block(kind="image", data=b"12345", mime="image/png"),))
    assert await render(answer, "tool", None) == "[image, image/png, 5 bytes; not shown]"


async def test_structured_content_is_shown_only_where_there_is_no_text() -> None:
    with_text = Answer(blocks=(Block(kind="text", text="42"),), structured={"answer": 42})
    assert await render(with_text, "tool", None) == "42"
    assert await render(Answer(blocks=(), structured=[1]), "tool", None) == "[\n 1\n]"


async def test_an_empty_answer_says_so() -> None:
    assert await render(Answer(blocks=()), "tool", None) == "(the answer is empty)"
    assert await render(Answer(blocks=(), failed=True), "tool", None) == "the server gave no reason"


async def test_only_so_many_attachments_are_kept() -> None:
    kept: list[str] = []

    async def keep(name: str, body: bytes) -> str:
        kept.append(name)
        return "artifact:1"

    blocks = tuple(Block(kind="image", data=b"x", mime="image/png") for _ in range(25))
    text = await render(Answer(blocks=blocks), "tool", keep)
    assert len(kept) == 20
    assert kept[0] == "tool-1.png"
    assert text.count("not shown]") == 5
