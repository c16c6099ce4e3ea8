import pytest
import torch

from farzi.errors import ArtifactError, SettingsError
from farzi.models import (
    FMLP,
    RNN,
    GRU4Rec,
    SASRec,
    Transformer,
    build_student,
    hidden_states,
    logits,
    sequence_loss,
    student_from,
)
from farzi.models import STUDENTS as REGISTRY
from farzi.models.blocks import causal_conv
from farzi.models.weights import load_weights, save_weights

STUDENTS = [
    SASRec(num_tokens=11, context_length=6, width=8, num_heads=2),
    Transformer(num_tokens=11, context_length=6, width=8, num_layers=2),
    SASRec(num_tokens=11, context_length=6, width=8, conv_size=3),
    Transformer(num_tokens=11, context_length=6, width=8, conv_size=9),
    GRU4Rec(num_tokens=11, context_length=6, width=8, num_layers=2),
    FMLP(num_tokens=11, context_length=6, width=8, num_layers=2),
    RNN(num_tokens=11, context_length=6, width=8, num_layers=2),
    RNN(num_tokens=11, context_length=6, width=8, cell="gru", tied=False),
]


def parameters(student, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params = student.init(generator, torch.float64)
    if "conv.weight" in params:  # it starts as the identity
        params["conv.weight"].normal_(generator=generator)
    return params


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 11, (3, 6), generator=generator)


@pytest.mark.parametrize("student", STUDENTS, ids=str)
class TestStudents:
    def test_one_hot_tokens_give_the_hard_loss(self, student):
        params, tokens = parameters(student), batch()
        soft = torch.nn.functional.one_hot(tokens, 11).double()
        torch.testing.assert_close(
            sequence_loss(student, params, soft),
            sequence_loss(student, params, tokens),
            rtol=1e-12,
            atol=0,
        )

    def test_labels_that_repeat_the_next_token_give_the_same_loss(self, student):
        params, tokens = parameters(student), batch()
        labels = torch.nn.functional.one_hot(tokens, 11).double().roll(-1, dims=1)
        mask = torch.ones(3, 6, dtype=torch.bool)
        mask[:, -1] = False
        torch.testing.assert_close(
            sequence_loss(student, params, tokens, labels=labels, mask=mask),
            sequence_loss(student, params, tokens),
        )

    def test_the_loss_is_the_textbook_cross_entropy(self, student):
        params, tokens = parameters(student), batch()
        scores = logits(student, params, hidden_states(student, params, tokens))
        expected = torch.nn.functional.cross_entropy(
            scores[:, :-1].reshape(-1, 11), tokens[:, 1:].reshape(-1)
        )
        torch.testing.assert_close(sequence_loss(student, params, tokens), expected)

    def test_smoothing_is_the_textbook_label_smoothing(self, student):
        params, tokens = parameters(student), batch()
        scores = logits(student, params, hidden_states(student, params, tokens))[:, :-1]
        expected = torch.nn.functional.cross_entropy(
            scores.reshape(-1, 11), tokens[:, 1:].reshape(-1), label_smoothing=0.2
        )
        soft = torch.nn.functional.one_hot(tokens, 11).double()
        for each in (tokens, soft):
            loss = sequence_loss(student, params, each, smoothing=0.2)
            torch.testing.assert_close(loss, expected)

    def test_a_position_reads_nothing_after_it(self, student):
        params, tokens = parameters(student), batch()
        other = tokens.clone()
        other[:, 4:] = (other[:, 4:] + 1) % 11
        before, after = (hidden_states(student, params, each)[:, :4] for each in (tokens, other))
        torch.testing.assert_close(before, after, rtol=0, atol=1e-14)

    def test_padding_changes_nothing(self, student):
        params, tokens = parameters(student), batch()
        short = sequence_loss(student, params, tokens[:, :4])
        mask = torch.arange(6).expand(3, 6) < 4
        torch.testing.assert_close(sequence_loss(student, params, tokens, mask=mask), short)

    def test_has_a_second_derivative(self, student):
        params = parameters(student)
        soft = torch.rand(2, 5, 11, dtype=torch.float64).softmax(-1).requires_grad_()
        names = list(params)

        def gradient(*values):
            leaves = dict(zip(names, values, strict=True))
            loss = sequence_loss(student, leaves, soft)
            return torch.autograd.grad(loss, values, create_graph=True)[0].sum()

        leaves = [value.requires_grad_() for value in params.values()]
        product = torch.autograd.grad(gradient(*leaves), [*leaves, soft])
        direction = torch.randn_like(soft)
        step = 1e-6
        with torch.enable_grad():
            ahead, behind = (
                torch.autograd.grad(
                    sequence_loss(
                        student, dict(zip(names, leaves, strict=True)), soft + s * direction
                    ),
                    leaves[0],
                )[0].sum()
                for s in (step, -step)
            )
        numeric = (ahead - behind) / (2 * step)
        torch.testing.assert_close((product[-1] * direction).sum(), numeric, rtol=1e-5, atol=1e-8)

    def test_weights_survive_the_disk(self, student, tmp_path):
        params = student.init(torch.Generator().manual_seed(3))
        save_weights(tmp_path / "w.safetensors", student, params, {"source": "toy"})
        again, loaded, provenance = load_weights(tmp_path / "w.safetensors")
        assert again == student
        assert provenance == {"source": "toy"}
        torch.testing.assert_close(loaded, params, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_the_convolution_is_torch_s(size):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((3, 6, 8), (size, 8)))
    expected = torch.nn.functional.conv1d(
        x.transpose(1, 2), weight.flip(0).T[:, None], padding=size - 1, groups=8
    )[..., :6].transpose(1, 2)
    torch.testing.assert_close(causal_conv(x, weight), expected)


def test_a_fresh_convolution_changes_nothing():
    plain = SASRec(num_tokens=11, context_length=6, width=8)
    convolved = SASRec(num_tokens=11, context_length=6, width=8, conv_size=4)
    losses = [
        sequence_loss(student, student.init(torch.Generator().manual_seed(0)), batch())
        for student in (plain, convolved)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", REGISTRY)
def test_dropout_is_drawn_from_the_generator_alone(name):
    student = student_from(name, {"num_tokens": 11, "context_length": 6, "dropout": 0.5})
    params, tokens = parameters(student), batch()
    losses = [
        sequence_loss(student, params, tokens, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "sasrek"},
        {"name": "sasrec", "num_tokens": 5, "context_length": 4, "widht": 3},
        {"name": "sasrec", "num_tokens": 5, "context_length": 4, "conv_size": -1},
        {"name": "transformer", "num_tokens": 5, "context_length": 4, "conv_size": -1},
        {"name": "transformer", "num_tokens": 5, "context_length": 4, "activation": "swish"},
        {"name": "rnn", "num_tokens": 5, "context_length": 4, "cell": "elman"},
    ],
)
def test_unknown_settings_are_refused(settings):
    with pytest.raises(SettingsError):
        build_student(settings)


def test_broken_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="not a weights file"):
        load_weights(path)


SIZES = {"num_tokens": 9, "context_length": 5, "width": 32, "num_heads": 4, "conv_size": 2}


class TestStudentFrom:
    def test_takes_the_defaults_that_it_has(self):
        assert student_from("gru4rec", SIZES) == GRU4Rec(9, 5, width=32)
        assert student_from("sasrec", SIZES) == SASRec(9, 5, 32, num_heads=4, conv_size=2)

    def test_what_is_asked_for_goes_before_defaults_and_the_text_before_both(self):
        student = student_from("sasrec:width=8,activation=relu", SIZES, {"width": 16})
        assert (student.width, student.activation) == (8, "relu")
        assert student_from("gru4rec", SIZES, {"width": 16}).width == 16

    @pytest.mark.parametrize(
        ("text", "settings", "message"),
        [
            ("gru4rek", {}, "did you mean gru4rec"),
            ("gru4rec", {"num_heads": 2}, "student 'gru4rec' has no setting 'num_heads'"),
            ("gru4rec:num_heads=2", {}, "student 'gru4rec' has no setting 'num_heads'"),
            ("gru4rec:width", {}, "must be NAME=VALUE"),
        ],
    )
    def test_what_a_student_does_not_have_is_refused(self, text, settings, message):
        with pytest.raises(SettingsError, match=message):
            student_from(text, SIZES, settings)
