import numpy as np
import pytest
import torch

from farzi.data.sequences import Sequences
from farzi.distill.initialise import choose_rows, fit_latents, teacher_start
from farzi.errors import DataError
from farzi.models import SASRec
from farzi.models.soft_head import embed

LOG = Sequences.from_lists([[0, 1, 2, 3, 4, 5], [1, 2, 3], [4, 5, 6, 7, 0, 1, 2], [3, 4]])


def rng():
    return np.random.default_rng(0)


def test_rows_are_ends_of_sequences_with_what_follows():
    rows = choose_rows(LOG, 2, 5, rng(), pack=False)
    for tokens, following, length in zip(rows.tokens, rows.following, rows.lengths, strict=True):
        assert torch.equal(tokens[1:length], following[: length - 1])
    assert rows.lengths.tolist() == [5, 5]


def test_packed_rows_are_full():
    rows = choose_rows(LOG, 6, 5, rng(), pack=True)
    assert rows.lengths.tolist() == [5] * 6


def test_too_few_sequences_are_refused():
    with pytest.raises(DataError, match="make fewer"):
        choose_rows(LOG, 5, 5, rng(), pack=False)


def test_latents_are_fitted_to_their_tokens():
    decoder = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[0, 3], [7, 3]])
    probability = (fit_latents(decoder, tokens) @ decoder).softmax(-1)
    assert torch.equal(probability.argmax(-1), tokens)


@pytest.mark.parametrize("latent_dim", [6, 9])
def test_a_teacher_of_full_rank_is_had_exactly(latent_dim):
    teacher = SASRec(num_tokens=8, context_length=5, width=6)
    params = teacher.init(torch.Generator().manual_seed(0))
    rows = choose_rows(LOG, 2, 5, rng(), pack=False)
    few = teacher_start(teacher, [params], rows, latent_dim, labels=True)
    table = teacher.embedding(params)
    expected = (teacher.hidden(params, embed(rows.tokens, table)) @ table.T).softmax(-1)
    torch.testing.assert_close(few.labels(), expected)
    assert all(block.is_contiguous() for block in few.factors().values())  # as safetensors asks


def test_a_lower_rank_keeps_the_leading_factors():
    teacher = SASRec(num_tokens=8, context_length=5, width=6)
    params = teacher.init(torch.Generator().manual_seed(0))
    rows = choose_rows(LOG, 2, 5, rng(), pack=False)
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
    rows = choose_rows(LOG, 2, 5, rng(), pack=False)
    few = teacher_start(teacher, teachers, rows, 18, labels=True)
    each = [
        (
            teacher.hidden(params, embed(rows.tokens, params["embedding"])) @ params["embedding"].T
        ).log_softmax(-1)
        for params in teachers
    ]
    torch.testing.assert_close(few.labels(), torch.stack(each).mean(0).softmax(-1))
