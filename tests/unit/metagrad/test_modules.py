"""Modules, layers, and what is handed in by mistake: each works, or says in one line what to do."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from farzi.errors import InPlaceError, NotTwiceDifferentiableError
from farzi.metagrad import (
    Adam,
    Checkpointed,
    CompiledLoss,
    Direct,
    MetaGradient,
    Reversible,
    Stored,
    functional,
    metagradient,
    precision,
)
from farzi.metagrad.guards import translated

Tensors = dict[str, Tensor]
SMOOTH = Adam(lr=0.01, eps_root=1e-3)


def run(module: nn.Module, x: Tensor, adjoint: Any = None, **more: Any) -> MetaGradient:
    """Three steps on the weighted squares of what the module makes of x, in its own dtype."""
    apply, params = functional(module)
    dtype = next(iter(params.values())).dtype
    weight = more.pop("weight", torch.tensor([1.0, 0.8], dtype=dtype))

    def output(params: Tensors) -> Tensor:
        out = apply(params, x)
        return out[0] if isinstance(out, tuple) else out

    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        out = output(params)
        return (
            meta["weight"][0] * (out - 0.5).square().mean() + meta["weight"][1] * out.sin().mean()
        )

    def outer(params: Tensors, meta: Tensors) -> Tensor:
        return (output(params) - 0.2).square().mean()

    arguments = (inner, outer, params, {"weight": weight})
    return metagradient(*arguments, steps=3, optimizer=SMOOTH, adjoint=adjoint, **more)


RECURRENT = {
    "LSTM": lambda: nn.LSTM(4, 6, num_layers=2),
    "GRU": lambda: nn.GRU(4, 6, num_layers=2),
    "RNN": lambda: nn.RNN(4, 6),
    "LSTM, both ways": lambda: nn.LSTM(4, 6, proj_size=3, bidirectional=True),
    "LSTM, batch first": lambda: nn.LSTM(4, 6, batch_first=True),
    "GRUCell": lambda: nn.GRUCell(4, 6),
    "LSTMCell": lambda: nn.LSTMCell(4, 6),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_against_central_differences(name: str) -> None:
    torch.manual_seed(0)
    module = RECURRENT[name]().double()
    x = torch.randn((3, 4) if name.endswith("Cell") else (5, 3, 4), dtype=torch.float64)
    results = [run(module, x, adjoint) for adjoint in (Direct(), Stored(), Checkpointed(slots=1))]
    weight = torch.tensor([1.0, 0.8], dtype=torch.float64)
    for place in range(2):
        step = 1e-4 * torch.eye(2, dtype=torch.float64)[place]
        up, down = (run(module, x, weight=weight + s).value for s in (step, -step))
        expected = float((up - down) / 2e-4)
        assert abs(expected) > 1e-6
        for result in (*results, run(module, x, Reversible())):
            assert float(result.meta_grads["weight"][place]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_recurrent_layers_in_float32(name: str) -> None:
    torch.manual_seed(0)
    module = RECURRENT[name]()
    x = torch.randn(5, 3, 4)
    exact = run(module.double(), x.double()).meta_grads["weight"]
    module = module.float()
    for adjoint in (Stored(), Reversible(), Direct()):
        single = run(module, x, adjoint).meta_grads["weight"].double()
        torch.testing.assert_close(single, exact, rtol=2e-2, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_recurrent_layers_of_cudnn(name: str) -> None:
    torch.manual_seed(0)
    module = RECURRENT[name]().cuda()
    x = torch.randn(5, 3, 4, device="cuda")
    weight = torch.tensor([1.0, 0.8], device="cuda")
    with pytest.raises(NotTwiceDifferentiableError, match=r"cudnn\.flags"):
        run(module, x, weight=weight)
    with torch.backends.cudnn.flags(enabled=False):
        result = run(module, x, weight=weight)
    exact = run(module.cpu().double(), x.cpu().double())
    torch.testing.assert_close(
        result.meta_grads["weight"].cpu().double(), exact.meta_grads["weight"], rtol=2e-2, atol=1e-7
    )


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (
            "Double backwards is not supported for CuDNN RNNs due to limitations in the CuDNN API. "
            "To run double backwards, please disable the CuDNN backend temporarily",
            r"cudnn\.flags\(enabled=False\)",
        ),
        ("derivative for aten::_cudnn_rnn_backward is not implemented", r"cudnn\.flags"),
        ("derivative for aten::mkldnn_rnn_layer_backward is not implemented", r"mkldnn\.flags"),
        ("derivative for aten::_efficient_attention_backward is not implemented", "SDPBackend"),
        (
            "the derivative for '_embedding_bag_backward' is not implemented.",
            "Embedding and a mean",
        ),
        ("derivative for aten::_fused_thing_backward is not implemented", "with others"),
    ],
)
def test_the_advice_is_about_the_layer(message: str, advice: str) -> None:
    with pytest.raises(NotTwiceDifferentiableError, match=advice) as caught, translated(4):
        raise RuntimeError(message)
    assert caught.value.step == 4
    assert ("attention" in str(caught.value)) == ("attention" in message)


@pytest.mark.parametrize("adjoint", [Direct(), Stored(), Reversible()], ids=str)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_sparse_embedding(kind: Any, adjoint: Any) -> None:
    rows = torch.tensor([[1, 2], [3, 3]])
    with pytest.raises(NotTwiceDifferentiableError, match="sparse=False") as caught:
        run(kind(10, 4, sparse=True), rows, adjoint)
    assert (caught.value.step, caught.value.tensor) == (0, "weight")
    assert "\n" not in str(caught.value)
    run(nn.Embedding(10, 4), rows, adjoint)


def test_a_sparse_embedding_in_the_outer_loss_gives_a_dense_gradient() -> None:
    rows = torch.tensor([1, 2, 2])

    def called(sparse: bool) -> MetaGradient:
        def outer(params: Tensors, meta: Tensors) -> Tensor:
            read = nn.functional.embedding(rows, params["table"], sparse=sparse)
            return read.square().sum()

        return metagradient(
            lambda params, meta, step: (params["table"] * meta["x"]).square().sum(),
            outer,
            {"table": torch.ones(4, 2)},
            {"x": torch.ones(2)},
            steps=2,
            optimizer=SMOOTH,
        )

    torch.testing.assert_close(called(True).meta_grads, called(False).meta_grads)


class Reads:
    """A network whose loss computes in another precision, by autocast or by casts."""

    def __init__(self, how: str) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 4))
        self.apply, self.params = functional(net)
        self.x, self.how = torch.randn(32, 8), how

    def inner(self, params: Tensors, meta: Tensors, step: int) -> Tensor:
        if self.how == "casts":
            low = {name: value.bfloat16() for name, value in params.items()}
            out = self.apply(low, self.x.bfloat16())
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.how == "autocast"):
                out = self.apply(params, self.x)
        return (out * meta["gain"]).float().square().mean()

    def run(self, adjoint: Any) -> MetaGradient:
        return metagradient(
            self.inner,
            lambda params, meta: self.apply(params, self.x).square().mean(),
            self.params,
            {"gain": torch.ones(())},
            steps=3,
            optimizer=SMOOTH,
            adjoint=adjoint,
        )


@pytest.mark.parametrize("how", ["autocast", "casts"])
def test_lower_precision_is_said_once_with_the_error_that_was_measured(
    how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_said", set())
    problem, full = Reads(how), Reads("full")
    with caplog.at_level(logging.WARNING, logger="farzi.metagrad"):
        reasons = [problem.run(a).stats.reason for a in (Stored(), Direct(), Reversible())]
        assert "precision" not in full.run(Stored()).stats.reason
    assert len(caplog.records) == 1
    told = caplog.records[0].getMessage()
    assert "bfloat16" in told
    assert all("bfloat16" in reason for reason in reasons)

    def gradient(problem: Reads) -> Tensor:
        leaves = {name: x.clone().requires_grad_() for name, x in problem.params.items()}
        loss = problem.inner(leaves, {"gain": torch.ones(())}, 0)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, leaves.values())])

    exact = gradient(full)
    error = float((gradient(problem) - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.1
    measured = float(told.split("off by ")[1].split(" ")[0])
    assert measured == pytest.approx(error, rel=0.1)


def test_functional_leaves_the_module_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 1))
    module[0].bias.requires_grad_(False)
    module[2].weight = module[2].weight
    before = {name: x.clone() for name, x in module.state_dict().items()}
    result = run(module, torch.randn(6, 4))
    assert set(result.final_params) == {"0.weight", "1.weight", "1.bias", "2.weight", "2.bias"}
    for name, x in module.state_dict().items():
        assert torch.equal(x, before[name])


def test_functional_with_tied_parameters() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    apply, params = functional(module.double())
    assert set(params) == {"0.weight", "0.bias", "2.bias"}
    x = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(apply(params, x), module(x))
    doubled = apply({name: 2 * value for name, value in params.items()}, x)
    assert not torch.equal(doubled, module(x))


class Counts(nn.Module):
    """Puts a new tensor in place of its buffer at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1.0
        out: Tensor = self.linear(x)
        return out


@pytest.mark.parametrize("module", [nn.BatchNorm1d(4), Counts()], ids=["batch norm", "counter"])
def test_functional_refuses_buffers_that_change(module: nn.Module) -> None:
    with pytest.raises(InPlaceError, match=r"changes|change"):
        run(module, torch.randn(6, 4))
    apply, params = functional(module)
    with pytest.raises(InPlaceError, match="buffer") as caught:
        apply(params, torch.randn(6, 4))
    assert caught.value.tensor in {"calls", "running_mean", "num_batches_tracked"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"params": nn.Linear(2, 1)}, r"`params` must be .* got the module Linear; .*functional\("),
        ({"meta": nn.Linear(2, 1)}, r"`meta` must be .* got the module Linear"),
        ({"params": [torch.ones(2)]}, "`params` must be a dict of tensors by name, got list"),
        ({"params": nn.Linear(2, 1).parameters()}, "`params` must be .* got generator"),
        ({"meta": None}, "`meta` must be a dict of tensors by name, got NoneType"),
        (
            {"optimizer": torch.optim.Adam([torch.ones(2, requires_grad=True)])},
            r"which is a value such as Adam\(lr=0.001\), got torch.optim.Adam",
        ),
        ({"optimizer": Adam}, "`optimizer` must be an optimiser .* got the class Adam"),
        ({"optimizer": None}, "`optimizer` must be an optimiser .* got NoneType"),
        ({"adjoint": Reversible}, "`adjoint` must be an adjoint .* got the class Reversible"),
        ({"adjoint": "stored"}, "`adjoint` must be an adjoint .* got str"),
        ({"inner_loss": 3}, "`inner_loss` must be a function .* got int"),
        ({"outer_loss": None}, "`outer_loss` must be a function .* got NoneType"),
    ],
)
def test_what_is_handed_in_by_mistake(change: Any, says: str) -> None:
    arguments: dict[str, Any] = {
        "inner_loss": lambda params, meta, step: (params["w"] * meta["x"]).square().sum(),
        "outer_loss": lambda params, meta: params["w"].sum(),
        "params": {"w": torch.ones(2)},
        "meta": {"x": torch.ones(2)},
        "optimizer": SMOOTH,
        "steps": 2,
    }
    with pytest.raises(ValueError, match=says) as caught:
        metagradient(**{**arguments, **change})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="`module` must be"):
        functional(3)  # type: ignore[arg-type]


FIRST_CALL = """
import sys, torch
from farzi.metagrad import *
loss = lambda p, m, s: (torch.tanh(p["w"] @ m["x"]) - 0.3).square().mean()
outer = lambda p, m: p["w"].square().sum()
w, m = torch.ones(3, 4), {"x": torch.ones(4, 2)}
for adjoint in (None, Stored(), Direct(), Checkpointed(slots=2), Reversible()):
    metagradient(loss, outer, {"w": w}, m, steps=4, optimizer=Adam(eps_root=1e-8), adjoint=adjoint)
metagradient(loss, outer, {"w": torch.ones(2, 3, 4)}, m, steps=4, optimizer=AdamW(eps_root=1e-8),
             batched=True, clip_norm=0.1)
with torch.inference_mode():
    unroll(loss, {"w": w}, m, steps=4, optimizer=SGD(), seed=1)
estimate(loss, outer, {"w": w}, m, steps=4, optimizer=Adam(eps_root=1e-8))
apply, params = functional(torch.nn.GRU(4, 2))
apply(params, torch.ones(3, 2, 4))
loaded = [name for name in ("torch._dynamo", "torch._inductor.codecache") if name in sys.modules]
print("loaded:", loaded)
"""


def test_a_first_call_does_not_load_the_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "loaded: []"


def test_a_compiled_loss_is_watched_as_well() -> None:
    total = torch.zeros(())

    def loss(params: Tensors, meta: Tensors, inputs: Tensors) -> Tensor:
        total.add_(1.0)
        return (params["w"] * meta["x"]).square().sum()

    with pytest.raises(InPlaceError):
        metagradient(
            CompiledLoss(loss, backend="eager"),
            lambda params, meta: params["w"].sum(),
            {"w": torch.ones(2)},
            {"x": torch.ones(2)},
            steps=2,
            optimizer=SMOOTH,
        )
