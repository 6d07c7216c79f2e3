"""A long job says how far it is at least every minute, and what is left follows from its pace."""

import logging
import time

import pytest

from fusegpt import pace as module
from fusegpt.pace import SAYS, Pace, heartbeat, under_way


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_line_says_where_it_is_how_fast_and_how_long_it_will_take():
    clock = Clock()
    with Pace("scoring", 30, "block", clock=clock) as pace:
        assert str(pace) == "scoring: block 0/30, 0 s so far"
        clock.now += 40
        assert str(pace) == "scoring: block 0/30, 40 s so far"
        pace.advance(10, "now 17")
        assert str(pace) == "scoring: block 10/30, now 17, 4 s each, about 80 s left"
        clock.now += 1.0
        pace.advance(2000 - 10)
        assert "a second" in str(pace)


def test_parts_that_were_done_before_do_not_count_for_the_pace():
    clock = Clock()
    with Pace("tuning", 24, "optimiser step", done=20, clock=clock) as pace:
        clock.now += 60
        pace.advance()
        assert str(pace) == "tuning: optimiser step 21/24, 60 s each, about 3 min left"


def test_what_has_no_end_has_no_time_left():
    clock = Clock()
    with Pace("reading", unit="file", clock=clock) as pace:
        clock.now += 7200
        pace.advance(3600)
        assert str(pace) == "reading: file 3,600, 2 s each"


def test_the_whole_stands_before_its_part_and_both_go_when_they_end():
    with Pace("all", 2), pytest.raises(KeyError), Pace("one", 5):
        assert [line.partition(":")[0] for line in under_way()] == ["all", "one"]
        raise KeyError
    assert under_way() == []


def test_the_log_gets_a_line_every_minute_even_in_one_long_part(caplog, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.01)
    caplog.set_level(logging.INFO, "fusegpt")

    def said(text):
        deadline = time.monotonic() + 60
        while not any(text in record.getMessage() for record in list(caplog.records)):
            assert time.monotonic() < deadline, caplog.text
            time.sleep(0.01)

    with heartbeat("merge"):
        said(f"{SAYS}merge: 0 s so far")
        with Pace("scoring", 3, "block") as pace:
            pace.advance()
            said(f"{SAYS}scoring: block 1/3")
    count = len(caplog.records)
    time.sleep(0.05)
    assert len(caplog.records) == count  # silent once it is over


def test_the_interval_is_a_minute_at_most():
    assert module.EVERY <= 60
