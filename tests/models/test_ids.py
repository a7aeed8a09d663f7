"""Ids."""

from crew_plugin.models.ids import new_id


def test_ids_differ_and_sort_by_the_time_they_were_made() -> None:
    ids = [new_id("run") for _ in range(2000)]

    assert len(set(ids)) == len(ids)
    times = [each[:-4] for each in ids]
    assert times == sorted(times)


def test_an_id_is_short_and_can_be_typed() -> None:
    kind, _, rest = new_id("run").partition("_")

    assert (kind, len(rest)) == ("run", 14)
    assert rest.isalnum()
    assert rest == rest.lower()
    assert not set(rest) & set("ilou")
