import numpy as np
import torch

from farzi.data.sequences import Sequences
from farzi.evaluation import validation_loss
from farzi.metagrad import Adam, unroll
from farzi.models import SASRec, sequence_loss
from farzi.synthetic import SyntheticSequences
from farzi.training import RealBatches, SyntheticBatches, TrainSettings, train

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
    assert [loss for _, loss in trained.curve] == [3.0, 2.0, 2.5, 2.6]


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
