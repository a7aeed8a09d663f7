"""The soft budget of requests."""

from crew_plugin.session.budget import AFTER_FORCED, Budget, Spent


def spend(budget: Budget, requests: int) -> list[tuple[int, Spent]]:
    """Make so many requests; what was due after which of them."""
    due: list[tuple[int, Spent]] = []
    for _ in range(requests):
        budget.asked()
        move = budget.due()
        if move is not None:
            due.append((budget.requests, move))
    return due


def test_a_notice_at_the_budget_a_forced_submit_at_half_as_much_again_and_the_end_five_later() -> None:
    budget = Budget(10)
    assert spend(budget, 15 + AFTER_FORCED) == [(10, Spent.NOTICE), (15, Spent.FORCE), (20, Spent.OVER)]


def test_what_is_due_waits_while_a_submitted_result_is_judged() -> None:
    budget = Budget(2)
    spend(budget, 2)
    budget.asked()  # this answer submits: nobody asks what is due until its result was judged
    assert budget.due() is Spent.FORCE


def test_a_session_that_was_made_to_hand_in_for_another_reason_is_not_made_to_again() -> None:
    budget = Budget(4)
    budget.asked()
    budget.forced()
    assert spend(budget, 5 + AFTER_FORCED - 1)[0] == (6, Spent.OVER)


def test_a_budget_of_one_request_ends_too() -> None:
    assert [move for _, move in spend(Budget(1), 7)] == [Spent.NOTICE, Spent.FORCE, Spent.OVER]
