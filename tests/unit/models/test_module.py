"""Modules of the user's own as students: what works, and what is refused in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from farzi.errors import SettingsError
from farzi.metagrad import Adam, CompiledLoss, Stored, metagradient
from farzi.models import (
    build_student,
    from_file,
    from_module,
    hidden_states,
    logits,
    sequence_loss,
    student_from,
    with_dropout,
)
from farzi.models.weights import load_weights, save_weights

TOKENS, LENGTH, WIDTH = 11, 6, 8


class Recurrent(nn.Module):
    """An embedding narrower than the state, a recurrent layer of torch's, an untied head."""

    def __init__(self, kind: type[nn.Module] = nn.GRU, rate: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, 5)
        self.drop = nn.Dropout(rate)
        self.body = kind(5, WIDTH, 2, batch_first=True, dropout=rate)
        self.scores = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scores(self.body(self.drop(self.table(tokens)))[0])


class Attending(nn.Module):
    """torch's encoder layers, learned positions, a head tied to the embedding."""

    def __init__(self, causal: bool = True, tied: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        self.causal = causal

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length) if self.causal else None
        x = self.tokens(tokens) + self.positions(torch.arange(length))
        return self.head(self.norm(self.encoder(x, mask=mask, is_causal=self.causal))), None


class Bare(nn.Module):
    """Plain attention modules of torch's, and hidden states that the embedding scores."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True, dropout=0.1)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        return self.norm(x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])


MODULES = {
    "gru": Recurrent,
    "lstm": lambda: Recurrent(nn.LSTM, 0.3),
    "encoder": Attending,
    "encoder, untied": lambda: Attending(tied=False),
    "attention": Bare,
}


@pytest.fixture(params=MODULES)
def made(request: pytest.FixtureRequest) -> Any:
    make = MODULES[request.param]
    return make, from_module(make, LENGTH)


def tokens(seed: int = 1) -> Tensor:
    return torch.randint(0, TOKENS, (3, LENGTH), generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_modules(made: Any) -> None:
    make, student = made
    module = make().eval()
    params = {name: value.detach() for name, value in module.named_parameters()}
    with torch.no_grad():
        output = module(tokens())
        output = output[0] if isinstance(output, tuple) else output
        if student.head_name is None:
            output = output @ module.table.weight.T
    actual = logits(student, params, hidden_states(student, params, tokens()))
    torch.testing.assert_close(actual, output, rtol=0, atol=1e-5)
    assert output.std() > 0.05


def test_first_weights_are_the_modules_own(made: Any) -> None:
    make, student = made
    params = student.init(torch.Generator().manual_seed(3))
    again = student.init(torch.Generator().manual_seed(3))
    other = student.init(torch.Generator().manual_seed(4))
    assert all(torch.equal(params[name], again[name]) for name in params)
    assert {name: x.shape for name, x in params.items()} == {
        name: x.shape for name, x in make().named_parameters()
    }
    drawn = [name for name in params if params[name].std() > 0]
    assert drawn
    assert not any(torch.equal(params[name], other[name]) for name in drawn)


def test_soft_tokens_and_every_weight_get_their_gradients(made: Any) -> None:
    _, student = made
    params = student.init(torch.Generator().manual_seed(0), torch.float64)
    soft = torch.randn(2, 3, TOKENS, dtype=torch.float64).softmax(-1).requires_grad_()
    names = [name for name in params if "positions" not in name]
    leaves = {name: value.requires_grad_() for name, value in params.items()}

    def loss(soft: Tensor) -> Tensor:
        return sequence_loss(student, leaves, soft)

    assert torch.autograd.gradcheck(loss, [soft], fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, [soft], fast_mode=True)
    for name, gradient in zip(
        names, torch.autograd.grad(loss(soft), [leaves[name] for name in names]), strict=True
    ):
        # A bias of attention's keys moves all its scores alike.
        assert gradient.abs().max() > 1e-9, name


def test_dropout_is_drawn_from_the_generator_alone() -> None:
    student = from_module(MODULES["lstm"], LENGTH)
    params = student.init(torch.Generator().manual_seed(0))

    def loss(seed: int | None, student: Any = student) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return sequence_loss(student, params, tokens(), generator=generator)

    state = torch.get_rng_state()
    losses = [loss(seed) for seed in (0, 0, 1, None)]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1]
    assert len({float(x) for x in losses}) == 3
    without = with_dropout(student, 0.0)
    assert loss(0, without) == loss(None, without) == losses[3]
    attention = from_module(Bare, LENGTH)
    weights = attention.init(torch.Generator().manual_seed(0))
    kept = [
        sequence_loss(
            with_dropout(attention, rate),
            weights,
            tokens(),
            generator=torch.Generator().manual_seed(0),
        )
        for rate in (0.0, 0.5)
    ]
    assert kept[0] != kept[1]


def test_the_fingerprint_is_of_what_is_computed() -> None:
    class Slower(Recurrent):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.scores(0.5 * self.body(self.drop(self.table(tokens)))[0])

    made = from_module(Recurrent, LENGTH)
    fingerprints = [
        student.settings()["fingerprint"]
        for student in (
            made,
            from_module(Recurrent, LENGTH),
            with_dropout(made, 0.5),
            from_module(Slower, LENGTH),
            from_module(lambda: Recurrent(nn.LSTM), LENGTH),
        )
    ]
    assert fingerprints[0] == fingerprints[1] == fingerprints[2]
    assert len(set(fingerprints)) == 3


def test_what_cannot_be_compiled_says_so() -> None:
    assert "no GRU, which its layer 'body' is" in str(from_module(Recurrent, LENGTH).not_compiled)
    assert from_module(Attending, LENGTH).not_compiled is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_module_of_attention_can_be_compiled() -> None:
    student = from_module(Attending, LENGTH)
    params = student.init(torch.Generator().manual_seed(0), torch.float64)
    meta = {"tokens": torch.randn(2, LENGTH, TOKENS, dtype=torch.float64).softmax(-1)}

    def loss(params: Any, meta: Any, inputs: Any) -> Tensor:
        return sequence_loss(student, params, meta["tokens"])

    compiled = CompiledLoss(loss, backend="aot_eager")
    gradients = [
        metagradient(
            inner,
            lambda params, meta: sequence_loss(student, params, tokens()),
            params,
            meta,
            steps=3,
            optimizer=Adam(lr=0.01, eps_root=1e-8),
            adjoint=Stored(),
        ).meta_grads["tokens"]
        for inner in (compiled, compiled.__call__)
    ]
    assert gradients[1].abs().max() > 1e-6
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)


def test_an_instance_is_drawn_anew() -> None:
    module = Recurrent()
    student = from_module(module, LENGTH)
    before = {name: value.clone() for name, value in module.named_parameters()}
    params = student.init(torch.Generator().manual_seed(0))
    assert all(torch.equal(before[name], x) for name, x in module.named_parameters())
    assert not any(torch.equal(params[name], before[name]) for name in params)


# ------------------------------------------------------------------------------- what is refused


class Wrong(nn.Module):
    """A tagger with one mistake."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake
        norm = 1.0 if mistake == "max_norm" else None
        self.table = nn.Embedding(TOKENS, WIDTH, max_norm=norm)
        self.body = nn.GRU(WIDTH, WIDTH, batch_first=mistake != "batch")
        self.norm = nn.BatchNorm1d(WIDTH) if mistake == "buffer" else nn.Identity()
        self.head = nn.Linear(WIDTH, TOKENS + (mistake == "head"))
        self.scale = nn.Parameter(torch.randn(WIDTH))

    def forward(self, tokens: Tensor) -> Any:
        x = self.table(tokens)
        if self.mistake == "future":
            x = x + x.flip(1)
        if self.mistake == "mask":
            x = x * (tokens != 0).unsqueeze(-1)
        if self.mistake == "twice":
            x = x + self.table(tokens.roll(1))
        if self.mistake == "once":
            x = Once.apply(x)
        x = self.body(x)[0] * self.scale
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        if self.mistake == "last":
            x = x[:, -1]
        if self.mistake == "inline":
            return x @ self.table.weight.T
        scores = self.head(x)
        if self.mistake == "scaled":
            scores = 2 * scores
        return {"scores": scores} if self.mistake == "dictionary" else scores


class Once(torch.autograd.Function):
    """The identity, with a first derivative alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return d


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("future", "not causal"),
        ("batch", "batch_first=True"),
        ("mask", "reads token ids past the embedding"),
        ("scaled", "changes them afterwards"),
        ("twice", "called more than once"),
        ("once", "second derivative is wrong or missing in parts"),
        ("last", "every position must be scored"),
        ("inline", "does not call its head; scores must come from an nn.Linear"),
        ("head", r"returns \(3, 6, 12\): scores must come from an nn.Linear"),
        ("dictionary", "must return a tensor, got dict"),
        ("max_norm", "max_norm of 'table'"),
        ("buffer", "buffer 'norm.running_mean' changes|not causal"),
    ],
)
def test_a_module_with_a_mistake_is_refused(mistake: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        from_module(lambda: Wrong(mistake), LENGTH)
    assert "\n" not in str(caught.value)


def test_without_a_mistake_it_is_taken() -> None:
    assert from_module(lambda: Wrong(""), LENGTH).width == WIDTH


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (lambda: nn.Linear(3, 3), {}, "no nn.Embedding"),
        (lambda: 3, {}, "must return a torch.nn.Module, got int"),
        (Recurrent, {"embedding": "words"}, "'words' is no nn.Embedding of it; there are table"),
        (Recurrent, {"head": "out"}, "'out' is no nn.Linear of it; there are scores"),
        (lambda: Attending(causal=False), {}, "not causal"),
        (
            Attending,
            {"context_length": LENGTH + 1},
            f"it fails on {LENGTH + 1} tokens: index out of range",
        ),
        (Wrong(""), {}, "nothing draws the parameter 'scale' anew"),
    ],
)
def test_what_cannot_be_taken_is_refused(module: Any, settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        from_module(module, **{"context_length": LENGTH, **settings})


# ------------------------------------------------------------------------------- files, settings

FILE = """
import torch

def make(num_tokens, context_length):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(num_tokens, 4)
            self.body = torch.nn.LSTM(4, 6, batch_first=True)
            self.head = torch.nn.Linear(6, num_tokens)
        def forward(self, tokens):
            return self.head(self.body(self.table(tokens))[0])
    return Model()

def student(num_tokens, context_length):
    from farzi.models import SASRec
    return SASRec(num_tokens, context_length, width=8)

def fixed(num_tokens, context_length):
    return make(12, context_length)

def number(num_tokens, context_length):
    return num_tokens

def fails(num_tokens, context_length):
    raise KeyError("x")
"""


@pytest.fixture
def file(tmp_path: Any) -> Any:
    path = tmp_path / "my_models.py"
    path.write_text(FILE)
    return path


def test_a_function_in_a_file_makes_a_student(file: Any) -> None:
    sizes = {"num_tokens": 9, "context_length": 5, "width": 32, "num_heads": 2, "dropout": 0.0}
    student = student_from(f"{file}:make", sizes)
    assert (student.num_tokens, student.context_length, student.width) == (9, 5, 6)
    assert student_from(f"{file}:student", sizes).settings()["name"] == "sasrec"
    assert from_file(f"{file}:make", 9, 5).settings() == student.settings()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fixed", "made a model of 12 tokens where 9 were asked for"),
        ("number", "must return a torch.nn.Module or a farzi Student, got int"),
        ("fails", r"fails\(9, 5\) fails: KeyError: 'x'"),
        ("nothing", "has no function 'nothing'"),
    ],
)
def test_what_a_file_does_wrong_is_said(file: Any, function: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        student_from(f"{file}:{function}", {"num_tokens": 9, "context_length": 5})
    assert str(caught.value).startswith(f"student '{file}:{function}': ")


def test_a_broken_or_missing_file_is_said(tmp_path: Any) -> None:
    (tmp_path / "broken.py").write_text("def make(:\n")
    for name, message in (("broken", "SyntaxError"), ("missing", "there is no file")):
        with pytest.raises(SettingsError, match=message):
            student_from(f"{tmp_path}/{name}.py:make", {"num_tokens": 9, "context_length": 5})
    with pytest.raises(SettingsError, match="has no setting 'width'"):
        student_from("a.py:make", {"num_tokens": 9, "context_length": 5}, {"width": 3})


def test_settings_name_no_code_and_ask_for_the_student(file: Any, tmp_path: Any) -> None:
    sizes = {"num_tokens": 9, "context_length": 5}
    student = student_from(f"{file}:make", sizes)
    settings = student.settings()
    assert not any("my_models" in str(value) or "make" in str(value) for value in settings.values())
    with pytest.raises(SettingsError, match=r"a module of the user's own.*--student"):
        build_student(settings)
    with pytest.raises(SettingsError, match="--student"):
        student_from(settings["name"], settings)
    params = student.init(torch.Generator().manual_seed(0))
    weights = tmp_path / "w.safetensors"
    save_weights(weights, student, params, {"source": "toy"})
    with pytest.raises(SettingsError, match=r"w\.safetensors: the student was a module"):
        load_weights(weights)
    for given in (student, f"{file}:make"):
        again, loaded, provenance = load_weights(weights, given)
        assert again.settings() == settings
        assert provenance == {"source": "toy"}
        torch.testing.assert_close(loaded, params, rtol=0, atol=0)


# ------------------------------------------------------------------------------- transformers


GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 50}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
class TestTransformers:
    def student(self, config: Any, tmp_path: Any) -> Any:
        pytest.importorskip("transformers")
        import json

        (tmp_path / "config.json").write_text(json.dumps(config))
        return student_from(f"hf:{tmp_path}", {"num_tokens": TOKENS, "context_length": LENGTH})

    def test_logits_are_the_librarys(self, config: Any, tmp_path: Any) -> None:
        student = self.student(config, tmp_path)
        same = student_from(
            f"hf:{tmp_path}/config.json", {"num_tokens": TOKENS, "context_length": LENGTH}
        )
        assert same.settings() == student.settings()
        model = student.make().eval()
        params = {name: x.detach() for name, x in model.named_parameters()}
        with torch.no_grad():
            expected = model(tokens()).logits
            actual = logits(student, params, hidden_states(student, params, tokens()))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        assert expected.std() > 0.01

    def test_has_a_second_derivative(self, config: Any, tmp_path: Any) -> None:
        student = self.student(config, tmp_path)
        params = student.init(torch.Generator().manual_seed(0))
        soft = torch.randn(2, LENGTH, TOKENS).softmax(-1).requires_grad_()
        leaves = {name: value.requires_grad_() for name, value in params.items()}
        loss = sequence_loss(student, leaves, soft)
        assert math.isclose(float(loss.detach()), math.log(TOKENS), rel_tol=0.1)
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        assert all(bool(x.any()) for x in gradients)
        (second,) = torch.autograd.grad(sum(x.square().sum() for x in gradients), soft)
        assert second.abs().max() > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("{}", "names no model_type"),
        ('{"model_type": "gpt9"}', "cannot be read as gpt9"),
        ('{"model_type": "t5"}', "cannot be made"),
        (
            '{"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, '
            '"intermediate_size": 8, "num_hidden_layers": 1}',
            "not causal",
        ),
    ],
)
def test_what_is_no_causal_language_model_is_refused(
    tmp_path: Any, text: str, message: str
) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingsError, match=message):
        student_from(f"hf:{tmp_path}", {"num_tokens": TOKENS, "context_length": LENGTH})
