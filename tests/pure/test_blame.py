"""Who is to blame for a failure, the user or the exchange: every way in which turns can end, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.factories import steadily
from vigil.blame import MISDIRECTED, Blame
from vigil.errors import ExchangeError, ExchangeRefused, ExchangeUnavailable, MalformedReply, UsageError
from vigil.store import Chunk

LEAST = 4
PATIENCE_SECONDS = 60.0

SILENT: list[ExchangeError] = [ExchangeUnavailable("502"), MalformedReply("no page")]


def refused(status: int = 422) -> ExchangeRefused:
    return ExchangeRefused(f"refused with {status}", status=status)


class Turns:
    """Users' turns that end, each a second after the one before, and what became of the users."""

    def __init__(self, *, answered: bool = False) -> None:
        self.blame = Blame(LEAST, PATIENCE_SECONDS)
        self.now = 0.0
        self.users = 0
        self.failed: list[str] = []
        self.released: list[str] = []
        if answered:
            self.end(None)

    def end(self, *errors: ExchangeError | None, seconds: float = 1.0) -> None:
        for error in errors:
            self.now += seconds
            user, self.users = f"user {self.users}", self.users + 1
            self._take(self.blame.hear(user, error, self.now))

    def rest(self) -> None:
        self._take(self.blame.rest())

    def _take(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            assert (chunk.cursor_ms, chunk.fills, chunk.done) == (None, [], False), "a failure moves no cursor"
            assert (chunk.error is None) == chunk.released
            (self.released if chunk.released else self.failed).append(chunk.user)


# Between answers


@pytest.mark.parametrize("error", SILENT)
@pytest.mark.parametrize("answered", [False, True])
def test_who_fails_between_others_that_are_answered_fails_alone(error: ExchangeError, answered: bool) -> None:
    turns = Turns(answered=answered)
    first = turns.users
    turns.end(*[error] * (LEAST - 1))
    assert turns.failed == [], "it is not clear yet"
    turns.end(None)
    assert turns.failed == [f"user {number}" for number in range(first, first + LEAST - 1)]
    assert turns.released == []


def test_a_failure_is_told_once_and_with_its_reason() -> None:
    blame = Blame(LEAST, PATIENCE_SECONDS)
    blame.hear("one", None, 0.0)
    blame.hear("two", ExchangeUnavailable("a broken answer"), 1.0)
    (chunk,) = blame.hear("three", None, 2.0)
    assert (chunk.user, chunk.error, chunk.released) == ("two", "a broken answer", False)
    assert blame.hear("four", None, 3.0) == []
    assert blame.rest() == []


@pytest.mark.parametrize("error", SILENT)
def test_many_in_a_row_are_an_outage_and_nobody_is_blamed_for_it(error: ExchangeError) -> None:
    turns = Turns(answered=True)
    turns.end(*[error] * (LEAST + 3))
    assert turns.failed == turns.released == []
    turns.end(None)
    assert turns.failed == []
    assert turns.released == [f"user {number}" for number in range(1, LEAST + 4)]


def test_after_an_outage_counting_begins_anew() -> None:
    turns = Turns(answered=True)
    turns.end(*[SILENT[0]] * LEAST, None, *[SILENT[0]] * (LEAST - 1), None)
    assert (len(turns.released), len(turns.failed)) == (LEAST, LEAST - 1)


# An exchange that answers nobody


@pytest.mark.parametrize("error", SILENT)
def test_a_run_without_one_answer_ends_as_soon_as_it_is_clear(error: ExchangeError) -> None:
    turns = Turns()
    turns.end(*[error] * (LEAST - 1))
    with pytest.raises(ExchangeUnavailable, match=f"for {LEAST} users in a row, lastly user 3: {error}") as raised:
        turns.end(error)
    assert "run the same command again" in raised.value.hint
    assert turns.failed == []


def test_a_run_that_had_answers_waits_for_as_long_as_an_outage_may_last() -> None:
    turns = Turns(answered=True)
    turns.end(SILENT[0])
    turns.end(*[SILENT[0]] * 2 * LEAST, seconds=(PATIENCE_SECONDS - 1) / (2 * LEAST))
    with pytest.raises(ExchangeUnavailable):
        turns.end(SILENT[0], seconds=1.0)
    assert turns.failed == turns.released == []


def test_few_users_that_fail_for_long_are_no_outage() -> None:
    turns = Turns(answered=True)
    turns.end(*[SILENT[0]] * (LEAST - 1), seconds=PATIENCE_SECONDS)
    turns.end(None)
    assert len(turns.failed) == LEAST - 1


def test_the_patience_is_counted_from_the_first_failure_after_an_answer() -> None:
    turns = Turns(answered=True)
    turns.end(SILENT[0], seconds=10 * PATIENCE_SECONDS)
    turns.end(None, seconds=10 * PATIENCE_SECONDS)
    turns.end(*[SILENT[0]] * LEAST, seconds=PATIENCE_SECONDS / LEAST)  # less than the patience after the first of them
    turns.end(None)
    assert len(turns.released) == LEAST


# What is refused


def test_who_is_refused_by_an_exchange_that_answers_is_to_blame_at_once() -> None:
    turns = Turns(answered=True)
    turns.end(refused(), refused())
    assert turns.failed == ["user 1", "user 2"]


def test_who_is_refused_before_there_was_an_answer_is_held_back_until_there_is_one() -> None:
    turns = Turns()
    turns.end(refused())
    assert turns.failed == []
    turns.end(None)
    assert turns.failed == ["user 0"]


def test_who_was_refused_before_an_outage_was_over_is_to_blame_all_the_same() -> None:
    """Refused is understood: the exchange would say so again."""
    turns = Turns()
    turns.end(refused(), *[SILENT[0]] * (LEAST - 2), None)
    assert turns.failed == [f"user {number}" for number in range(LEAST - 1)]
    turns = Turns(answered=True)
    turns.end(*[SILENT[0]] * LEAST, refused(), None)
    assert turns.failed == [f"user {LEAST + 1}"]
    assert len(turns.released) == LEAST


@pytest.mark.parametrize("status", sorted(MISDIRECTED))
def test_a_url_that_refuses_everybody_by_its_status_is_the_wrong_one(status: int) -> None:
    turns = Turns()
    with pytest.raises(UsageError, match="users in a row") as raised:
        turns.end(*[refused(status)] * LEAST)
    assert "VIGIL_API_URL" in raised.value.hint


@pytest.mark.parametrize("error", [refused(422), refused(400), *SILENT])
def test_an_exchange_that_refuses_everybodys_request_is_not_a_wrong_url(error: ExchangeError) -> None:
    turns = Turns()
    with pytest.raises(ExchangeUnavailable):
        turns.end(refused(404), error, *[refused(404)] * LEAST)


@pytest.mark.parametrize("status", sorted(MISDIRECTED))
def test_one_user_is_enough_to_tell_a_wrong_url_where_nobody_was_answered(status: int) -> None:
    turns = Turns()
    turns.end(refused(status))
    assert turns.blame.suspects_outage
    with pytest.raises(UsageError, match="no usable answer"):
        turns.rest()
    assert turns.failed == turns.released == []


def test_a_url_that_has_answered_is_the_right_one_whatever_it_says_later() -> None:
    turns = Turns(answered=True)
    with pytest.raises(ExchangeUnavailable):
        turns.end(*[refused(404)] * LEAST, seconds=PATIENCE_SECONDS)


def test_a_status_that_speaks_of_the_url_blames_nobody_before_the_next_answer() -> None:
    """A proxy in between may say it of everybody for a while."""
    turns = Turns(answered=True)
    turns.end(refused(404))
    assert turns.failed == []
    turns.end(None)
    assert turns.failed == ["user 1"]
    turns.end(*[refused(404)] * LEAST, None)
    assert len(turns.released) == LEAST


# At the end of the run


@pytest.mark.parametrize("answered", [False, True])
def test_few_that_are_left_when_nobody_is_left_to_ask_are_to_blame(answered: bool) -> None:
    turns = Turns(answered=answered)
    turns.end(SILENT[0], SILENT[1])
    turns.rest()
    assert len(turns.failed) == 2
    turns.rest()
    assert len(turns.failed) == 2, "told twice"


def test_a_run_that_ends_in_an_outage_says_so_and_blames_nobody() -> None:
    turns = Turns(answered=True)
    turns.end(*[SILENT[0]] * LEAST)
    with pytest.raises(ExchangeUnavailable, match=f"for {LEAST} users in a row"):
        turns.rest()
    assert turns.failed == turns.released == []


def test_a_run_without_users_has_nobody_to_blame() -> None:
    assert Blame(LEAST, PATIENCE_SECONDS).rest() == []


# Whatever comes


@dataclass(frozen=True)
class Turn:
    error: ExchangeError | None
    seconds: float


_turns = st.lists(
    st.builds(
        Turn,
        error=st.sampled_from([None, None, *SILENT, *SILENT, refused(), refused(404)]),
        seconds=st.sampled_from([0.0, 1.0, PATIENCE_SECONDS / 3, 2 * PATIENCE_SECONDS]),
    ),
    max_size=40,
)


@steadily(500)
@given(_turns)
def test_every_user_that_failed_is_failed_or_set_free_or_the_run_stops(history: list[Turn]) -> None:
    turns, stopped = Turns(), False
    try:
        for turn in history:
            turns.end(turn.error, seconds=turn.seconds)
        turns.rest()
    except (ExchangeUnavailable, UsageError):
        stopped = True
    told = turns.failed + turns.released
    assert len(told) == len(set(told)), "a user's turn ended twice"
    wrong = {f"user {number}" for number, turn in enumerate(history) if turn.error is not None}
    assert set(told) <= wrong
    if not stopped:
        assert set(told) == wrong, "forgotten"


@steadily(500)
@given(_turns)
def test_nobody_is_blamed_for_an_outage(history: list[Turn]) -> None:
    """So many that got no answer at all, none answered in between: none of them has failed, however it ends."""
    turns = Turns()
    try:
        for turn in history:
            turns.end(turn.error, seconds=turn.seconds)
        turns.rest()
    except (ExchangeUnavailable, UsageError):
        pass
    silent: list[str] = []
    for number, turn in enumerate([*history, Turn(None, 0.0)]):
        if turn.error is None:
            if len(silent) >= LEAST:
                assert not {*silent} & {*turns.failed}
            silent = []
        elif not isinstance(turn.error, ExchangeRefused):
            silent.append(f"user {number}")


@steadily(300)
@given(_turns)
def test_a_run_stops_only_when_many_in_a_row_were_not_answered(history: list[Turn]) -> None:
    turns, streak = Turns(), 0
    try:
        for turn in history:
            streak = streak + 1 if turn.error is not None else 0
            turns.end(turn.error, seconds=turn.seconds)
        turns.rest()
    except ExchangeUnavailable:
        assert streak >= LEAST
    except UsageError:
        assert all(isinstance(turn.error, ExchangeRefused) and turn.error.status == 404 for turn in history)


# Somebody else is asked for


def test_just_before_an_outage_is_believed_it_is_time_to_ask_for_somebody_else() -> None:
    turns = Turns(answered=True)
    brinks = []
    for _ in range(3 * LEAST):
        brinks.append(turns.blame.at_the_brink)
        turns.end(SILENT[0])
    assert brinks == ([False] * (LEAST - 1) + [True]) * 3
    assert turns.blame.suspects_outage


@pytest.mark.parametrize("answered", [False, True])
def test_if_somebody_else_is_answered_those_held_back_are_to_blame(answered: bool) -> None:
    turns = Turns(answered=answered)
    turns.end(*[SILENT[0]] * (LEAST - 1))
    chunks = turns.blame.vouch()
    assert [(chunk.error, chunk.released) for chunk in chunks] == [(str(SILENT[0]), False)] * (LEAST - 1)
    assert not turns.blame.suspects_outage
    turns.end(*[SILENT[0]] * (LEAST - 1))  # counting began anew, and there has been an answer
    turns.rest()
    assert len(turns.failed) == LEAST - 1
