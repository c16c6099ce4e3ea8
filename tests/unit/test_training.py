import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from farzi import synthetic
from farzi.data.sequences import Sequences
from farzi.errors import NonFiniteError
from farzi.evaluation import validation_loss
from farzi.metagrad import Adam, unroll
from farzi.models import SASRec, sequence_loss
from farzi.seeding import stream, stream_seed
from farzi.synthetic import SyntheticSequences
from farzi.training import (
    LOST_LOOKS,
    LOST_NATS,
    Batch,
    Look,
    RealBatches,
    Shifted,
    SyntheticBatches,
    Trained,
    TrainSettings,
    real_batch,
    train,
)

CIRCLE = Sequences.from_lists([[i, (i + 1) % 5, (i + 2) % 5, (i + 3) % 5] for i in range(5)] * 3)
STUDENT = SASRec(num_tokens=5, context_length=4, width=8)


def validate(params):
    return validation_loss(STUDENT, params, CIRCLE)


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not():
    runs = [
        train(
            STUDENT,
            RealBatches(CIRCLE, 4, 4, seed),
            TrainSettings(max_steps=12, seed=seed),
            validate,
        )
        for seed in (0, 0, 1)
    ]
    torch.testing.assert_close(runs[0].params, runs[1].params, rtol=0, atol=0)
    assert runs[0].loss != runs[2].loss


def test_stops_on_validation_and_keeps_the_best_look():
    losses = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    trained = train(
        STUDENT,
        RealBatches(CIRCLE, 4, 4),
        TrainSettings(max_steps=100, eval_every=1, patience=2),
        lambda params: next(losses),
    )
    assert (trained.step, trained.loss, trained.stopped) == (2, 2.0, "validation")
    assert [look.loss for look in trained.curve] == [3.0, 2.0, 2.5, 2.6]
    assert [look.step for look in trained.curve] == [1, 2, 3, 4]


def test_an_epoch_reads_every_sequence_once():
    batches = RealBatches(Sequences.from_lists([[i, i] for i in range(7)]), 2, 3)
    seen = torch.cat([batches(step).tokens[:, 0] for step in range(batches.steps_per_epoch)])
    assert sorted(seen.tolist()) == list(range(7))


def test_windows_lie_inside_their_sequences():
    log = Sequences.from_lists([list(range(9))])
    for step in range(20):
        tokens = RealBatches(log, 4, 1)(step).tokens[0]
        assert torch.equal(tokens.diff(), torch.ones(4, dtype=torch.int64))


def test_every_position_of_a_context_is_trained():
    """The last one too: long histories are continued from there."""
    student = SASRec(num_tokens=9, context_length=4, width=4)
    params = student.init(torch.Generator().manual_seed(0))
    params = {name: value.requires_grad_() for name, value in params.items()}
    batch = RealBatches(Sequences.from_lists([list(range(9))]), 4, 1)(0)
    loss = sequence_loss(student, params, batch.tokens, mask=batch.mask)
    (gradient,) = torch.autograd.grad(loss, [params["position"]])
    assert bool((gradient.abs().amax(1) > 0).all())


def test_a_student_does_not_see_the_factors():
    """M -> R M and Z -> Z R^-1 leave the soft tokens, and so the student, as they were."""
    generator = torch.Generator().manual_seed(0)
    latent, labels = torch.randn(2, 4, 4, 3, generator=generator, dtype=torch.float64)
    decoder = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    mixing = torch.randn(3, 3, generator=generator, dtype=torch.float64) + 2 * torch.eye(3)
    inverse = torch.linalg.inv(mixing)
    first = SyntheticSequences(latent, decoder, labels)
    second = SyntheticSequences(latent @ inverse, mixing @ decoder, labels @ inverse)
    trained = []
    for few in (first, second):

        def loss(params, meta, step, few=few):
            batch = SyntheticBatches(few, 2)(step)
            return sequence_loss(STUDENT, params, batch.tokens, labels=batch.labels)

        params = STUDENT.init(torch.Generator().manual_seed(0), torch.float64)
        trained.append(
            unroll(loss, params, {}, steps=10, optimizer=Adam(lr=0.01, eps_root=1e-8))[0]
        )
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-7, atol=1e-9)


def test_validation_loss_is_the_mean_over_positions():
    params = STUDENT.init(torch.Generator().manual_seed(0))
    ragged = Sequences.from_lists([[0, 1, 2, 3], [4, 0]])
    by_hand = []
    for sequence in ragged:
        tokens = torch.from_numpy(np.asarray(sequence, np.int64))[None]
        table = params["embedding"]
        hidden = STUDENT.hidden(params, table[tokens])
        nll = torch.nn.functional.cross_entropy(
            (hidden[0, :-1] @ table.T), tokens[0, 1:], reduction="none"
        )
        by_hand.extend(nll.tolist())
    assert abs(validation_loss(STUDENT, params, ragged) - np.mean(by_hand)) < 1e-6


# -------------------------------------------------------------------------- the training loop


def plain_loop(student, batches, steps, *, seed=0, lr=0.02, smoothing=0.0, **adam):
    """What `train` does, as one would write it by hand: the weights after every step."""
    params = student.init(torch.Generator().manual_seed(stream_seed(seed, "weights")))
    params = {name: value.requires_grad_() for name, value in params.items()}
    dropout = torch.Generator().manual_seed(stream_seed(seed, "dropout"))
    optimizer = torch.optim.AdamW(params.values(), lr, **{"weight_decay": 0.0, **adam})
    states = []
    for step in range(steps):
        batch = batches(step)
        loss = sequence_loss(
            student,
            params,
            batch.tokens,
            labels=batch.labels,
            mask=batch.mask,
            generator=dropout,
            smoothing=smoothing,
            once=True,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states.append({name: value.detach().clone() for name, value in params.items()})
    return states


def seen_by(settings, batches=None, student=STUDENT, losses=None, **kwargs):
    """The weights at every look, and what came of it."""
    looks = {}
    values = iter(losses or [])

    def validate(params):
        return next(values) if losses else -float(len(looks))

    def keep(step, params, loss):
        assert isinstance(loss, float)
        looks[step] = {name: value.clone() for name, value in params.items()}

    batches = batches or RealBatches(CIRCLE, 4, 4)
    trained = train(student, batches, settings, validate, on_look=keep, **kwargs)
    return looks, trained


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"lr": 0.005, "weight_decay": 0.3},
        {"betas": (0.5, 0.7)},
        {"smoothing": 0.2, "seed": 3},
    ],
)
def test_every_bit_is_that_of_a_plain_loop(values):
    """So what times, reports and looks do leaves no trace in the weights."""
    student = SASRec(num_tokens=5, context_length=4, width=8, dropout=0.3)
    generator = torch.Generator().manual_seed(0)
    latent, labels = torch.randn(2, 6, 4, 3, generator=generator)
    decoder = torch.randn(3, 5, generator=generator)
    few = SyntheticSequences(latent, decoder, labels, torch.tensor([4, 3, 2, 4, 4, 1]))
    for batches in (RealBatches(CIRCLE, 4, 4, seed=1), SyntheticBatches(few, 4, seed=1)):
        settings = TrainSettings(max_steps=7, eval_every=2, **values)
        looks, trained = seen_by(settings, batches, student, progress=lambda *_: None)
        by_hand = plain_loop(student, batches, 7, **values)
        assert list(looks) == [2, 4, 6, 7]
        for step, weights in looks.items():
            torch.testing.assert_close(weights, by_hand[step - 1], rtol=0, atol=0)
        torch.testing.assert_close(trained.params, by_hand[6], rtol=0, atol=0)


def test_the_weights_that_are_kept_are_those_of_the_best_look():
    looks, trained = seen_by(
        TrainSettings(max_steps=4, eval_every=1, patience=9), losses=[3.0, 1.0, 2.0, 1.0]
    )
    assert (trained.step, trained.best_step, trained.loss, trained.stopped) == (2, 2, 1.0, "cap")
    torch.testing.assert_close(trained.params, looks[2], rtol=0, atol=0)
    assert not any(value.requires_grad for value in trained.params.values())
    assert not torch.equal(looks[2]["embedding"], looks[4]["embedding"])


def test_patience_counts_looks_since_the_best():
    losses = [5.0, 4.0, 4.0, 4.5, 3.9, 4.0, 4.0, 4.0, 1.0]
    _, trained = seen_by(TrainSettings(max_steps=9, eval_every=1, patience=3), losses=losses)
    assert (trained.step, trained.curve[-1].step, trained.stopped) == (5, 8, "validation")
    _, trained = seen_by(TrainSettings(max_steps=8, eval_every=1, patience=3), losses=losses)
    assert (trained.curve[-1].step, trained.stopped) == (8, "validation")
    _, trained = seen_by(TrainSettings(max_steps=7, eval_every=1, patience=3), losses=losses)
    assert (trained.curve[-1].step, trained.stopped) == (7, "cap")
    _, trained = seen_by(TrainSettings(max_steps=9, eval_every=1, patience=4), losses=losses)
    assert (trained.step, trained.stopped) == (9, "cap")
    falling = TrainSettings(max_steps=9, eval_every=1, patience=4, schedule="linear")
    _, trained = seen_by(falling, losses=losses)
    assert (trained.step, trained.stopped) == (9, "schedule")


@pytest.mark.parametrize("lost", [1.0 + 2 * LOST_NATS, math.nan])
def test_a_falling_step_size_is_not_awaited_where_all_is_lost(lost):
    linear = TrainSettings(max_steps=40, eval_every=1, patience=40, schedule="linear")
    _, trained = seen_by(linear, losses=[1.0, *[lost] * 39])
    assert (trained.step, trained.curve[-1].step) == (1, 1 + LOST_LOOKS)
    assert trained.stopped == "validation"
    still = [1.0, *[1.0 + 0.9 * LOST_NATS] * 38, 0.5]
    _, trained = seen_by(linear, losses=still)
    assert (trained.step, trained.stopped) == (40, "schedule")
    rough = [1.0, *[1.2] * 20, lost, *[1.2] * 17, 0.5]  # a single look tells nothing
    _, trained = seen_by(linear, losses=rough)
    assert (trained.step, trained.stopped) == (40, "schedule")
    late = [1.0, *[lost] * (LOST_LOOKS - 1), 0.9, *[lost] * (LOST_LOOKS - 1), 0.8]
    _, trained = seen_by(replace(linear, max_steps=len(late)), losses=late)
    assert (trained.step, trained.stopped) == (len(late), "schedule")
    constant = replace(linear, schedule="constant", max_steps=20)
    _, trained = seen_by(constant, losses=[1.0, *[lost] * 19])
    assert (trained.curve[-1].step, trained.stopped) == (20, "cap")


def test_looks_that_are_not_finite_are_passed_over_or_end_in_an_error():
    nan, inf = math.nan, math.inf
    _, trained = seen_by(
        TrainSettings(max_steps=4, eval_every=1, patience=9), losses=[nan, 2.0, -inf, 3.0]
    )
    assert (trained.step, trained.loss) == (2, 2.0)
    with pytest.raises(NonFiniteError, match=r"never finite in 2 steps at lr 0\.02; try a smaller"):
        seen_by(TrainSettings(eval_every=1, patience=2), losses=[nan, inf])
    with pytest.raises(NonFiniteError) as caught:
        seen_by(TrainSettings(eval_every=3, patience=1), losses=[nan])
    assert caught.value.step == 3


def test_looks_are_spaced_in_steps_that_may_grow():
    looks, _ = seen_by(TrainSettings(max_steps=25, eval_every=10))
    assert list(looks) == [10, 20, 25]
    looks, _ = seen_by(TrainSettings(max_steps=40, eval_every=4, look_growth=0.5))
    assert list(looks) == [4, 8, 12, 18, 27, 40]


class Ticks:
    """A clock on which a step takes one second: batches move it, and so may looks."""

    def __init__(self, batches, seconds=1.0):
        self.now, self.batches, self.seconds = 100.0, batches, seconds

    def __call__(self, step=None):
        if step is None:
            return self.now
        self.now += self.seconds
        return self.batches(step)


def timed(settings, look_seconds=0.0, **kwargs):
    clock, steps = Ticks(RealBatches(CIRCLE, 4, 4)), []

    def validate(params):
        clock.now += look_seconds
        steps.append(clock.now)
        return -clock.now

    trained = train(STUDENT, clock, settings, validate, clock=clock, **kwargs)
    return trained, [look.step for look in trained.curve]


def test_seconds_are_those_of_the_steps_alone():
    trained, steps = timed(TrainSettings(max_steps=6, eval_every=2), look_seconds=50)
    assert steps == [2, 4, 6]
    assert [look.seconds for look in trained.curve] == [2, 4, 6]
    assert (trained.seconds, trained.total_seconds) == (6, 6)
    early = Trained({}, 4, 1.0, (Look(2, 3.0, 0.5), Look(4, 1.0, 1.25), Look(6, 2.0, 2.0)), "cap")
    assert (early.seconds, early.total_seconds, early.best_step) == (1.25, 2.0, 4)


def test_looks_spaced_by_seconds_and_a_cap_in_seconds():
    _, steps = timed(TrainSettings(max_steps=10, eval_every=1, eval_seconds=2.5), look_seconds=50)
    assert steps == [3, 6, 9, 10]
    _, steps = timed(TrainSettings(max_steps=5, eval_every=1, eval_seconds=2.0))
    assert steps == [2, 4, 5]
    trained, steps = timed(TrainSettings(max_steps=99, max_seconds=7.5, eval_every=3), 50)
    assert steps == [3, 6, 8]
    assert trained.stopped == "cap"
    assert trained.total_seconds == 8


def test_progress_says_how_far_it_is_and_how_long_it_will_take():
    said = []
    settings = TrainSettings(max_steps=10, eval_every=5)
    _, trained = None, timed(settings, 10, progress=lambda *values: said.append(values))[0]
    assert [step for step, _, _ in said] == list(range(1, 11))
    assert all(math.isfinite(loss) and loss > 0 for _, loss, _ in said)
    # Five steps in five seconds; after the look, of ten seconds, six in sixteen.
    lefts = [left for _, _, left in said]
    assert lefts[:5] == [9, 8, 7, 6, 5]
    assert lefts[5] == pytest.approx(16 / 6 * 4)
    assert lefts[-1] == 0
    assert trained.step == 10
    said.clear()
    timed(TrainSettings(max_steps=100, max_seconds=4), progress=lambda *each: said.append(each))
    assert [left for _, _, left in said] == [3, 2, 1, 0]


def test_progress_is_not_said_more_often_than_a_reader_can_see():
    said = []
    clock = Ticks(RealBatches(CIRCLE, 4, 4), seconds=0.1)
    settings = TrainSettings(max_steps=10, eval_every=10)
    train(
        STUDENT, clock, settings, lambda p: 0.0, progress=lambda *v: said.append(v[0]), clock=clock
    )
    assert said == [3, 6, 9, 10]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("eval_every", 0),
        ("patience", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("max_seconds", 0.0),
        ("eval_seconds", -1.0),
        ("look_growth", -0.1),
        ("weight_decay", -0.1),
        ("smoothing", 1.0),
        ("smoothing", -0.1),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^`{name}` must be .*, got {value}"):
        TrainSettings(**{name: value})


def test_settings_at_the_edge_are_taken():
    edge = TrainSettings(max_steps=1, eval_every=1, patience=1, smoothing=0.0, look_growth=0.0)
    assert (edge.lr, edge.max_steps, edge.weight_decay) == (0.02, 1, 0.0)
    defaults = TrainSettings()
    assert defaults == TrainSettings(
        0.02, 400, None, 10, 0.0, None, 5, 0.0, (0.9, 0.999), 0.0, 0, "constant"
    )


# ------------------------------------------------------------------------------------ batches


def test_batches_are_functions_of_the_step():
    log = Sequences.from_lists([list(range(i, i + 3 + i)) for i in range(7)])
    few = SyntheticSequences(torch.arange(84.0).reshape(7, 4, 3), torch.eye(3))
    for batches in (RealBatches(log, 3, 2, seed=5), SyntheticBatches(few, 2, seed=5)):
        assert batches.steps_per_epoch == 4
        forth = [batches(step).tokens for step in range(9)]
        back = [batches(step).tokens for step in reversed(range(9))]
        for first, second in zip(forth, reversed(back), strict=True):
            assert torch.equal(first, second)
        assert [len(tokens) for tokens in forth] == [2, 2, 2, 1, 2, 2, 2, 1, 2]


def test_epochs_are_permutations_and_each_is_another():
    few = SyntheticSequences(torch.zeros(7, 2, 3), torch.eye(3))
    batches = SyntheticBatches(few, 3, seed=2)
    epochs = [
        torch.cat([batches.indices(step) for step in range(3 * epoch, 3 * epoch + 3)]).tolist()
        for epoch in range(3)
    ]
    for epoch, order in enumerate(epochs):
        assert order == stream(2, "order", epoch).permutation(7).tolist()
    assert epochs[0] != epochs[1] != epochs[2]
    assert SyntheticBatches(few, 3, seed=3).indices(0).tolist() != epochs[0][:3]


def test_all_synthetic_sequences_are_one_batch_without_a_permutation():
    few = SyntheticSequences(
        torch.randn(3, 2, 4), torch.randn(4, 5), torch.randn(3, 2, 4), torch.tensor([2, 1, 2])
    )
    for size in (3, 4):
        batches = SyntheticBatches(few, size)
        assert batches.indices(1) is None
        assert batches.steps_per_epoch == 1
        batch = batches(0)
        assert torch.equal(batch.tokens, few.tokens())
        assert torch.equal(batch.labels, few.labels())
        assert batch.mask.tolist() == [[True, True], [True, False], [True, True]]
    part = SyntheticBatches(few, 2, seed=1)
    chosen = part.indices(0)
    assert torch.equal(part(0).tokens, few.tokens()[chosen])
    assert torch.equal(part(0).labels, few.labels()[chosen])
    assert torch.equal(part(0).mask, few.mask()[chosen])


def test_windows_end_anywhere_and_short_rows_are_taken_whole():
    log = Sequences.from_lists([list(range(10)), [90, 91]])
    ends = set()
    for seed in range(200):
        batch = real_batch(log, np.array([0, 1]), 3, np.random.default_rng(seed))
        assert batch.labels is None
        assert batch.tokens.shape == (2, 4)
        assert batch.mask.tolist() == [[True] * 4, [True, True, False, False]]
        assert batch.tokens[1].tolist() == [90, 91, 0, 0]
        ends.add(int(batch.tokens[0, -1]))
    assert ends == set(range(3, 10))
    exact = real_batch(log, np.array([1]), 3, np.random.default_rng(0))
    assert exact.tokens.tolist() == [[90, 91]]


def test_batches_of_other_seeds_are_others():
    log = Sequences.from_lists([list(range(50))] * 4)
    first, second = (RealBatches(log, 3, 4, seed=seed)(0).tokens for seed in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, RealBatches(log, 3, 4, seed=0)(1).tokens)


def test_a_batch_goes_to_a_device_whole():
    batch = Batch(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    moved = batch.to("meta")
    assert {part.device.type for part in (moved.tokens, moved.labels, moved.mask)} == {"meta"}
    assert moved.mask.dtype == torch.bool
    alone = Batch(torch.zeros(1, 2)).to("meta")
    assert (alone.labels, alone.mask) == (None, None)


def test_batches_that_are_not_formed_hold_the_same(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    few = SyntheticSequences(
        torch.randn(4, 3, 2, generator=draw),
        torch.randn(2, 6, generator=draw),
        torch.randn(4, 3, 2, generator=draw),
        lengths=torch.tensor([3, 1, 2, 3]),
    )
    table = torch.randn(6, 5, generator=draw)
    for size in (2, 4):
        formed = [SyntheticBatches(few, size, seed=1)(step) for step in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(synthetic, "MOST_FORMED", 1)
            batches = SyntheticBatches(few, size, seed=1)
            for step, expected in enumerate(formed):
                batch = batches(step)
                torch.testing.assert_close(batch.tokens.read(table), expected.tokens @ table)
                torch.testing.assert_close(batch.labels.read(table), expected.labels @ table)
                assert torch.equal(batch.mask, expected.mask)


def labelled(lengths=None, hard=True):
    """Three rows of four places, each with a token and a label of its own."""
    draw = torch.Generator().manual_seed(0)
    latent = torch.arange(12).view(3, 4) if hard else torch.randn(3, 4, 5, generator=draw)
    decoder, labels = (torch.randn(*size, generator=draw) for size in ((5, 12), (3, 4, 5)))
    return SyntheticSequences(latent, decoder, labels, lengths)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("lengths", [None, [4, 2, 1]])
def test_a_shifted_row_keeps_the_order_of_its_tokens_and_the_label_of_each(lengths, hard):
    few = labelled(None if lengths is None else torch.tensor(lengths), hard)
    plain = SyntheticBatches(few, 3)(0)
    own = lengths or [4, 4, 4]
    seen = [set(), set(), set()]
    for step in range(40):
        batch = Shifted(SyntheticBatches(few, 3), most=2, seed=1)(step)
        for row, length in enumerate(own):
            mask = torch.ones(4, dtype=torch.bool) if batch.mask is None else batch.mask[row]
            places = int(mask.nonzero()[0])
            seen[row].add(places)
            fit = min(length, 4 - places)
            assert mask.nonzero()[:, 0].tolist() == list(range(places, places + fit))
            for name in ("tokens", "labels"):
                moved, before = getattr(batch, name)[row], getattr(plain, name)[row]
                assert torch.equal(moved[places : places + fit], before[:fit])
            in_front = plain.tokens[row][[(place - places) % length for place in range(places)]]
            assert torch.equal(batch.tokens[row][:places], in_front)
    assert seen == [set(range(min(2, length - 1) + 1)) for length in own]


def test_half_of_the_rows_of_a_step_stay_and_the_others_go_equally_far():
    few = SyntheticSequences(torch.zeros(400, 9).long(), torch.eye(4), torch.zeros(400, 9, 4))
    shifted = Shifted(SyntheticBatches(few, 400), most=3, seed=2)
    places = (~shifted(0).mask).sum(1)
    counts = torch.bincount(places, minlength=4)
    assert abs(int(counts[0]) - 200) < 40  # four standard deviations
    assert all(abs(int(count) - 66.7) < 30 for count in counts[1:])
    assert torch.equal(places, (~shifted(0).mask).sum(1))
    assert not torch.equal(places, (~shifted(1).mask).sum(1))
    other = Shifted(SyntheticBatches(few, 400), most=3, seed=3)
    assert not torch.equal(places, (~other(0).mask).sum(1))


def test_what_is_in_front_of_a_shifted_row_is_not_trained():
    """The loss is that of the row's own labels, whatever labels stand in front."""
    few = labelled()
    student = SASRec(num_tokens=12, context_length=4, width=8)
    params = student.init(torch.Generator().manual_seed(0))
    batches = Shifted(SyntheticBatches(few, 3), most=3)
    batch = next(b for b in map(batches, range(9)) if b.mask is not None and not b.mask.all())
    other = torch.where(batch.mask[..., None], batch.labels, torch.full((12,), 1 / 12))
    losses = [
        sequence_loss(student, params, batch.tokens, labels=labels, mask=batch.mask, once=True)
        for labels in (batch.labels, other)
    ]
    assert torch.equal(*losses)


def test_shifted_factors_are_those_of_the_shifted_tokens(monkeypatch):
    few = labelled(hard=False)
    formed = [Shifted(SyntheticBatches(few, 2), 2)(step) for step in range(6)]
    monkeypatch.setattr(synthetic, "MOST_FORMED", 1)
    table = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    for step, expected in enumerate(formed):
        batch = Shifted(SyntheticBatches(few, 2), 2)(step)
        torch.testing.assert_close(batch.tokens.read(table), expected.tokens @ table)
        torch.testing.assert_close(batch.labels.read(table), expected.labels @ table)
        assert batch.mask is expected.mask is None or torch.equal(batch.mask, expected.mask)


def test_batches_without_labels_are_not_shifted():
    few = SyntheticSequences(torch.randn(3, 4, 2), torch.randn(2, 6))
    shifted = Shifted(SyntheticBatches(few, 3), 2)
    assert all(torch.equal(shifted(step).tokens, few.tokens()) for step in range(4))
    assert shifted.steps_per_epoch == 1
    with pytest.raises(ValueError, match="`most` must be at least 1, got 0"):
        Shifted(SyntheticBatches(few, 3), 0)
