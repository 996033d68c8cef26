import logging

import pytest

from brainsegfounder.errors import CheckpointError, SaveError
from brainsegfounder.training import saving
from brainsegfounder.training.saving import Saver, Tell


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(saving.time, "sleep", lambda seconds: None)


def failing(num_times):
    """Something to write that fails a few times; gives how often it was tried."""
    tries = []

    def write():
        tries.append(1)
        if len(tries) <= num_times:
            raise CheckpointError("no room.")

    return write, tries


@pytest.mark.parametrize("num_times", [0, 1, 2])
def test_what_fails_up_to_twice_is_written_at_the_third_try(num_times):
    write, tries = failing(num_times)
    saver = Saver()
    assert saver.save(write)
    assert len(tries) == num_times + 1
    assert saver.num_failed == 0


def test_the_third_failed_save_in_a_row_ends_it_with_74(caplog):
    write, tries = failing(100)
    saver = Saver()
    assert not saver.save(write)
    assert not saver.save(write)
    with pytest.raises(SaveError, match=r"no room\. Tried 3 times in each of 3 saves") as told:
        saver.save(write)
    assert told.value.exit_code == 74
    assert len(tries) == 9
    assert caplog.text.count("not saved") == 2


def test_the_last_save_ends_it_at_once():
    with pytest.raises(SaveError):
        Saver().save(failing(3)[0], is_last=True)


def test_a_mistake_of_ours_is_not_taken_for_a_full_disk():
    def write():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Saver().save(write)


def test_a_listener_that_fails_is_told_once_and_called_again(caplog):
    calls = []

    def listener(value):
        calls.append(value)
        raise OSError("gone")

    tell = Tell(listener, "the record")
    with caplog.at_level(logging.WARNING):
        for value in range(3):
            tell(value)
    assert calls == [0, 1, 2]
    assert caplog.text.count("the record does not work (gone)") == 1


def test_who_interrupts_a_listener_is_heard():
    def listener(value):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tell(listener, "the record")(1)
