"""What has to be confirmed is not done before."""

import pytest

from crew_plugin.consent import IN_CALL, Consent, need_consent
from crew_plugin.errors import NotConfirmed

DEED = "delete run r1 with 12 artifacts"


def test_what_is_not_confirmed_says_what_it_would_do_and_how_to_confirm() -> None:
    with pytest.raises(NotConfirmed) as refused:
        need_consent(DEED, Consent(), intent_needed=False, spelling=IN_CALL)
    assert str(refused.value) == f"nothing was changed: this would {DEED}; to do it, say confirm=true"


def test_where_an_intent_is_needed_a_confirmation_alone_is_not_enough() -> None:
    for confirmed, how in ((False, 'confirm=true and intent="WHY"'), (True, 'intent="WHY"')):
        with pytest.raises(NotConfirmed) as refused:
            need_consent(
                DEED, Consent(confirmed=confirmed, intent=" \n"), intent_needed=True, spelling=IN_CALL
            )
        assert refused.value.how == how


def test_the_intent_comes_back_on_one_line_and_bounded() -> None:
    consent = Consent(confirmed=True, intent="the branch\n  is gone " + "x" * 600)
    why = need_consent(DEED, consent, intent_needed=True, spelling=IN_CALL)
    assert why.startswith("the branch is gone xxx")
    assert len(why) == 500
