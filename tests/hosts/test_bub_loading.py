"""What loading Bub leaves behind in the garbage collector."""

import gc
import importlib
import weakref

import pytest

from crew_hooks.bub.parts import loading


class Node:
    """Something that can refer to itself."""


@pytest.mark.parametrize("looked", [True, False])
def test_the_collector_is_left_as_it_was_found_also_by_what_cannot_be_loaded(looked: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if looked else gc.disable)()
        with pytest.raises(ModuleNotFoundError), loading():
            importlib.import_module("nowhere_to_be_found")
        assert gc.isenabled() is looked
    finally:
        (gc.enable if was else gc.disable)()


def test_the_collector_does_not_look_meanwhile() -> None:
    with loading():
        assert not gc.isenabled()


def test_what_was_loaded_is_not_looked_at_again_and_what_comes_later_is() -> None:
    frozen = gc.get_freeze_count()
    with loading():
        loaded: list[list[int]] = [[] for _ in range(1000)]
    assert gc.get_freeze_count() >= frozen + len(loaded)

    later = Node()
    later.itself = later  # type: ignore[attr-defined]
    gone = weakref.ref(later)
    del later
    gc.collect()
    assert gone() is None
