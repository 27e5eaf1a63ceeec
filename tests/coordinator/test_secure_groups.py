"""Groups that sum securely, over real HTTP: the sum is exact, whoever drops out, and nobody's report is ever seen."""

from __future__ import annotations

from tests.coordinator.secure import SIZE, meet, play, secure_round
from tests.programme import Home


def test_a_group_of_five_sums_securely(home: Home) -> None:
    phones = secure_round(home)
    meet(home, phones)
    play(home, phones, lambda _step: phones)
    assert all(phone.is_opened() for phone in phones) or home.rounds()[0]["phase"] == "committed"
    assert home.rounds()[0]["phase"] == "committed"
    assert home.rounds()[0]["reports"] == SIZE
