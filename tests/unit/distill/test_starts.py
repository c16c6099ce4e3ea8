import numpy as np
import pytest
import torch

from farzi.data.sequences import Sequences
from farzi.distill.starts.base import fit_latents
from farzi.distill.starts.rows import choose_rows
from farzi.distill.starts.teacher import teacher_start
from farzi.errors import DataError
from farzi.models import SASRec
from farzi.models.fused.soft_head import embed

LOG = Sequences.from_lists([[0, 1, 2, 3, 4, 5], [1, 2, 3], [4, 5, 6, 7, 0, 1, 2], [3, 4]])


def rng():
    return np.random.default_rng(0)


def test_rows_are_ends_of_sequences_with_what_follows():
    rows = choose_rows(LOG, 2, 5, rng(), how="ends")
    for tokens, following, length in zip(rows.tokens, rows.following, rows.lengths, strict=True):
        assert torch.equal(tokens[1:length], following[: length - 1])
    assert rows.lengths.tolist() == [5, 5]


def test_packed_rows_are_full():
    rows = choose_rows(LOG, 6, 5, rng(), how="joined")
    assert rows.lengths.tolist() == [5] * 6


def test_pieces_fill_rows_with_stretches_of_real_sequences():
    log = Sequences.from_lists([list(range(20 * i, 20 * i + 20)) for i in range(6)])
    rows = choose_rows(log, 3, 9, rng(), how="pieces")
    assert rows.lengths.tolist() == [9] * 3
    follows = rows.following == rows.tokens + 1
    assert follows.float().mean() > 0.6  # all but where two pieces meet
    assert len(torch.unique(rows.tokens)) == rows.tokens.numel()


def test_pieces_prefer_tokens_that_no_row_has_yet():
    log = Sequences.from_lists([[0, 1, 2, 3]] * 9 + [[4, 5], [6, 7]])
    rows = choose_rows(log, 4, 7, rng(), how="pieces")
    assert set(torch.cat([rows.tokens, rows.following]).flatten().tolist()) == set(range(8))


def test_short_data_give_short_rows():
    rows = choose_rows(LOG, 2, 12, rng(), how="pieces")
    assert rows.lengths.max() < 12
    assert rows.lengths.min() > 0


def test_pieces_of_a_large_log_are_cut_from_drawn_sequences(monkeypatch):
    log = Sequences.from_lists([[user] * 12 for user in range(90)])
    every = choose_rows(log, 1, 59, rng(), how="pieces")  # five pieces of twelve, all worth as much
    assert every.tokens.unique().tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr("farzi.distill.starts.rows.MOST_CUT", 8)
    few = choose_rows(log, 1, 59, rng(), how="pieces")
    drawn = np.sort(rng().choice(90, 10, replace=False))  # ten for a row are more than eight
    assert few.tokens.unique().tolist() == drawn[:5].tolist()
    again = choose_rows(log, 1, 59, rng(), how="pieces")
    assert torch.equal(few.tokens, again.tokens)


def test_too_few_pieces_are_refused():
    with pytest.raises(DataError, match="pieces of 2 events or more; make fewer"):
        choose_rows(LOG, 50, 5, rng(), how="pieces")


def test_too_few_sequences_are_refused():
    with pytest.raises(DataError, match="make fewer"):
        choose_rows(LOG, 5, 5, rng(), how="ends")


def test_latents_are_fitted_to_their_tokens():
    decoder = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[0, 3], [7, 3]])
    probability = (fit_latents(decoder, tokens) @ decoder).softmax(-1)
    assert torch.equal(probability.argmax(-1), tokens)


@pytest.mark.parametrize("latent_dim", [6, 9])
def test_a_teacher_of_full_rank_is_had_exactly(latent_dim):
    teacher = SASRec(num_tokens=8, context_length=5, width=6)
    params = teacher.init(torch.Generator().manual_seed(0))
    rows = choose_rows(LOG, 2, 5, rng(), how="ends")
    few = teacher_start(teacher, [params], rows, latent_dim, labels=True)
    table = teacher.embedding(params)
    expected = (teacher.hidden(params, embed(rows.tokens, table)) @ table.T).softmax(-1)
    torch.testing.assert_close(few.labels(), expected)
    assert all(block.is_contiguous() for block in few.factors().values())  # as safetensors asks


def test_a_lower_rank_keeps_the_leading_factors():
    teacher = SASRec(num_tokens=8, context_length=5, width=6)
    params = teacher.init(torch.Generator().manual_seed(0))
    rows = choose_rows(LOG, 2, 5, rng(), how="ends")
    table = teacher.embedding(params)
    logits = teacher.hidden(params, embed(rows.tokens, table)) @ table.T
    logits = (logits - logits.mean(-1, keepdim=True)).reshape(-1, 8)
    few = teacher_start(teacher, [params], rows, 3, labels=True)
    error = (few.label_latent.reshape(-1, 3) @ few.decoder - logits).square().sum()
    singular = torch.linalg.svdvals(logits)
    torch.testing.assert_close(error, singular[3:].square().sum(), rtol=1e-4, atol=1e-6)


def test_several_teachers_give_their_mean_log_probability():
    teacher = SASRec(num_tokens=8, context_length=5, width=6)
    teachers = [teacher.init(torch.Generator().manual_seed(seed)) for seed in range(3)]
    rows = choose_rows(LOG, 2, 5, rng(), how="ends")
    few = teacher_start(teacher, teachers, rows, 18, labels=True)
    each = [
        (
            teacher.hidden(params, embed(rows.tokens, params["embedding"])) @ params["embedding"].T
        ).log_softmax(-1)
        for params in teachers
    ]
    torch.testing.assert_close(few.labels(), torch.stack(each).mean(0).softmax(-1))
