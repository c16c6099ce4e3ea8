"""The search over settings, on losses that are made up, so that the best is known."""

import json
from dataclasses import replace

import pytest

from farzi.errors import NonFiniteError
from farzi.experiments.results import Choice
from farzi.experiments.tuning import Search, Try, most_tries, search

AXES = {
    "lr": (0.01, 0.02, 0.005),
    "batch_size": (64, 16),
    "weight_decay": (0.0, 0.05),
    "dropout": (0.0, 0.2),
    "smoothing": (0.1, 0.0),
}


def bowl(choice):
    """Lowest at (.02, 16, .05, .2, 0), and separable: one pass over the axes finds that."""
    return (
        abs(choice.lr - 0.02)
        + abs(choice.batch_size - 16)
        + abs(choice.weight_decay - 0.05)
        + abs(choice.dropout - 0.2)
        + choice.smoothing
    )


def run(choice):
    return Try(choice, bowl(choice), seconds=2.0)


def test_it_takes_the_lowest_validation_loss():
    found = search(AXES, run)
    assert found.best == Choice(0.02, 16, 0.05, 0.2, 0.0)
    assert min(found.tries, key=lambda each: each.loss).choice == found.best
    assert found.left_out == 0
    assert len(found.tries) <= most_tries(AXES)


def test_it_begins_with_the_first_values_and_goes_axis_by_axis():
    choices = [each.choice for each in search(AXES, run).tries]
    assert choices[:3] == [Choice(lr, 64, 0.0, 0.0, 0.1) for lr in (0.01, 0.02, 0.005)]
    assert choices[3] == Choice(0.02, 16, 0.0, 0.0, 0.1)
    assert choices[4] == Choice(0.02, 16, 0.05, 0.0, 0.1)
    assert len(set(choices)) == len(choices)


def test_the_step_size_is_tried_again_when_another_axis_changed():
    def tilted(choice):
        """A batch of 16 is better, and wants the smaller step."""
        best_lr = 0.005 if choice.batch_size == 16 else 0.02
        return Try(choice, abs(choice.lr - best_lr) + choice.batch_size / 1000)

    axes = {"lr": (0.01, 0.02, 0.005), "batch_size": (64, 16)}
    found = search(axes, tilted)
    assert found.best == Choice(0.005, 16)
    assert len(found.tries) == 6 == most_tries(axes)
    still = {"lr": (0.01, 0.02, 0.005), "batch_size": (16, 64)}
    assert len(search(still, tilted).tries) == 4


def test_more_sweeps_find_what_two_axes_are_worth_together():
    """Dropout helps with smoothing alone, and is tried before it, as on stdlib-calls."""

    def together(choice):
        both = choice.dropout and choice.smoothing
        return Try(choice, 6 - choice.smoothing + (-0.3 if both else 0.1) * choice.dropout)

    axes = {
        "lr": (0.01, 0.02),
        "batch_size": (64,),
        "dropout": (0.0, 0.35),
        "smoothing": (0.0, 0.1),
    }
    once, thrice = search(axes, together), search(axes, together, sweeps=3)
    assert once.best == Choice(0.01, 64, 0.0, 0.0, 0.1)
    assert thrice.best == Choice(0.01, 64, 0.0, 0.35, 0.1)
    assert thrice.tries[: len(once.tries)] == once.tries
    assert len(thrice.tries) == len({each.choice for each in thrice.tries}) == 7
    assert len(thrice.tries) <= most_tries(axes, 3)
    short = search(
        axes, lambda choice: replace(together(choice), seconds=1.0), budget_s=4, sweeps=3
    )
    assert (len(short.tries), short.left_out) == (4, 2)


def test_the_earlier_of_two_equal_settings_stands():
    assert search(AXES, lambda choice: Try(choice, 1.0)).best == Choice(0.01, 64, 0.0, 0.0, 0.1)


def test_a_budget_ends_the_search_and_says_what_is_left():
    found = search(AXES, run, budget_s=5.0)
    assert len(found.tries) == 3
    assert found.best == Choice(0.02, 64, 0.0, 0.0, 0.1)
    assert found.left_out == 4
    assert len(search(AXES, run, budget_s=0.0).tries) == 1
    for seconds, tries, left_out in ((4.0, 2, 5), (2.0, 1, 6)):  # each try takes 2 seconds
        found = search(AXES, run, budget_s=seconds)
        assert (len(found.tries), found.left_out) == (tries, left_out)


def test_a_setting_that_diverges_is_not_chosen():
    found = search(AXES, lambda choice: Try(choice, None if choice.lr == 0.02 else bowl(choice)))
    assert found.best.lr == 0.01
    with pytest.raises(NonFiniteError, match="every setting"):
        search(AXES, lambda choice: Try(choice, None))


def test_a_search_is_the_same_after_json():
    found = search(AXES, run)
    assert Search.from_json(json.loads(json.dumps(found.to_json()))) == found
    cut = search(AXES, run, budget_s=5.0)
    assert cut.left_out
    assert Search.from_json(json.loads(json.dumps(cut.to_json()))) == cut


def test_an_axis_alone_is_tried_once():
    axes = {"lr": (0.01, 0.02, 0.005), "batch_size": (64,)}
    assert most_tries(axes) == len(search(axes, run).tries) == 3
    axes = {"lr": (0.01,), "batch_size": (64, 16)}
    assert most_tries(axes) == len(search(axes, run).tries) == 2


def test_one_setting_needs_no_search():
    axes = {"lr": (0.01,), "batch_size": (64,), "smoothing": (0.1,)}
    found = search(axes, lambda choice: pytest.fail("tried"))
    assert found == Search(Choice(0.01, 64, smoothing=0.1), ())
    assert most_tries(axes) == 0
