"""What hours cost at each price: the arithmetic, GPUs that are rented together, one's own price, old prices."""

from __future__ import annotations

import pytest

from nothing_tune.plan.cost import Cost, prices, stale
from nothing_tune.recipe.providers import Price, Provider, providers

MADE = (
    Provider(
        "cloud", "Cloud", (Price("l4", 0.8, "on-demand", "a page", "2026-05-07"), Price("t4", 0.6, "spot", "b", None))
    ),
    Provider("eights", "Eights", (Price("l4", 0.5, "on-demand", "c", "2026-11", least=8, note="eight"),)),
    Provider("own", "your own", (Price("any", 0.0, "own", "free", None),)),
)
HOURS = (10.0, 5.0, 20.0)


def short(costs: list[Cost]) -> list[tuple[str, int, float, float, float]]:
    return [(c.provider, c.gpus, c.usd, c.low, c.high) for c in costs]


def test_every_price_times_the_hours_and_the_gpus_that_are_paid_for() -> None:
    assert short(prices(MADE, "l4", HOURS, 1)) == [
        ("own", 1, 0.0, 0.0, 0.0),
        ("cloud", 1, 8.0, 4.0, 16.0),
        ("eights", 8, 40.0, 20.0, 80.0),
    ]
    assert short(prices(MADE, "l4", HOURS, 9)) == [
        ("own", 9, 0.0, 0.0, 0.0),
        ("cloud", 9, 72.0, 36.0, 144.0),
        ("eights", 16, 80.0, 40.0, 160.0),
    ]
    assert short(prices(MADE, "h100", HOURS, 1)) == [("own", 1, 0.0, 0.0, 0.0)]
    assert prices(MADE[:2], "h100", HOURS, 1) == []
    assert prices(MADE, "t4", HOURS, 1)[1] == Cost("cloud", "spot", 0.6, 1, 6.0, 3.0, 12.0, "b", None)


def test_ones_own_price_stands_beside_the_others() -> None:
    own = {"launch": {"processes": 2, "usd_per_hour": 0.9}}
    found = prices(MADE, "l4", HOURS, 2, own, today="2026-11-21")
    assert [c.provider for c in found] == ["cloud", "own", "eights"]
    assert (found[1].usd, found[1].source, found[1].as_of, found[1].stale) == (18.0, "launch.usd_per_hour", None, False)
    for none in (None, {}, {"launch": None}, {"launch": {"usd_per_hour": None}}, {"launch": {"usd_per_hour": 0}}):
        assert prices(MADE, "l4", HOURS, 2, none)[0].usd == 0.0


def test_old_prices_are_marked_where_the_day_is_known() -> None:
    for as_of, today, expected in (
        ("2026-05-07", "2026-11-07", False),
        ("2026-05-07", "2026-11-08", True),
        ("2026-05-07", "2027-01-01", True),
        ("2026-05", "2026-11-30", False),
        ("2026-05", "2026-12-01", True),
        ("2027-01-01", "2026-11-21", False),
        (None, "2026-11-21", None),
        ("2026-05-07", None, None),
    ):
        assert stale(as_of, today) is expected, (as_of, today)
    marks = {c.provider: c.stale for c in prices(MADE, "l4", HOURS, 1, today="2026-11-21")}
    assert marks == {"cloud": True, "eights": False, "own": None}
    assert {c.stale for c in prices(MADE, "l4", HOURS, 1)} == {None}


def test_the_prices_of_the_library() -> None:
    found = prices(providers(), "l4", HOURS, 1, today="2026-11-21")
    assert [(c.provider, c.usd) for c in found] == [("own", 0.0), ("modal", pytest.approx(7.992))]
    ratio = prices(providers(), "l4", HOURS, 1)[1].usd / prices(providers(), "t4", HOURS, 1)[1].usd
    assert ratio == pytest.approx(1.35, abs=0.01)  # the Nothing-GPT source: an L4 at 1.35 times the price of a T4
