"""The published adjoint of Adam against the exact one, and what reversing Adam in floats does.

    python -m benchmarks.paper_rule --plot benchmarks/results/paper_rule.svg

writes `benchmarks/results/paper_rule.json`, for a two-layer transformer and for logistic
regression. The rule: cosine and relative error of its meta-gradient against the exact one, in
float64; the exact one is checked against autograd at few steps. The reversal: relative error of the
recovered starting weights, in float32 and float64, and of `Reversible`, which is 0 or raises.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from farzi.metagrad import Adam, Direct, Reversible, Stored, metagradient
from farzi.metagrad.paper_rule import paper_rule

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 300)
RESULTS = Path(__file__).parent / "results"
OPTIMIZER = Adam(lr=0.01, eps_root=1e-10)

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """An inner and an outer loss, with where they start."""

    name: str
    inner: Callable[[Tensors, Tensors, int], Tensor]
    outer: Callable[[Tensors, Tensors], Tensor]
    params: Tensors
    meta: Tensors

    def to(self, dtype: torch.dtype) -> Problem:
        """The same problem in another dtype; the losses follow their arguments."""
        return replace(
            self,
            params={name: tensor.to(dtype) for name, tensor in self.params.items()},
            meta={name: tensor.to(dtype) for name, tensor in self.meta.items()},
        )


def logistic_regression() -> Problem:
    """Forty learned points with soft labels; judged on two hundred others."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(20, generator=draw, dtype=torch.float64)
    held_out = torch.randn(200, 20, generator=draw, dtype=torch.float64)
    labels = (held_out @ truth > 0).double()
    points = torch.randn(40, 20, generator=draw, dtype=torch.float64)

    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        logits = meta["points"] @ params["w"] + params["b"]
        return F.binary_cross_entropy_with_logits(logits, torch.sigmoid(meta["labels"]))

    def outer(params: Tensors, meta: Tensors) -> Tensor:
        logits = held_out.to(params["w"].dtype) @ params["w"] + params["b"]
        return F.binary_cross_entropy_with_logits(logits, labels.to(params["w"].dtype))

    params = {
        "w": 0.1 * torch.randn(20, generator=draw, dtype=torch.float64),
        "b": torch.zeros(1, dtype=torch.float64),
    }
    return Problem(
        "logistic regression", inner, outer, params, {"points": points, "labels": points @ truth}
    )


def transformer() -> Problem:
    """Two causal blocks of width 8 on four soft sequences of eight tokens out of twelve."""
    draw = torch.Generator().manual_seed(1)
    items, width, length, rows = 12, 8, 8, 4

    def normal(*shape: int, scale: float = 0.3) -> Tensor:
        return scale * torch.randn(shape, generator=draw, dtype=torch.float64)

    params = {"items": normal(items, width), "places": normal(length, width)}
    for layer in (0, 1):
        for name in ("query", "key", "value", "out"):
            params[f"{layer}.{name}"] = normal(width, width)
        params[f"{layer}.up"] = normal(width, 4 * width)
        params[f"{layer}.down"] = normal(4 * width, width)
    meta = {"soft": normal(rows, length, items, scale=2.0)}
    real = torch.randint(0, items, (16, length), generator=draw)

    def loss(params: Tensors, soft: Tensor) -> Tensor:
        tokens = soft @ params["items"]
        hidden = tokens + params["places"]
        blocked = torch.ones(length, length, dtype=torch.bool).triu(1)
        for layer in (0, 1):
            normed = F.layer_norm(hidden, (width,))
            query, key, value = (
                normed @ params[f"{layer}.{name}"] for name in ("query", "key", "value")
            )
            scores = (query @ key.mT / width**0.5).masked_fill(blocked, -math.inf)
            hidden = hidden + torch.softmax(scores, -1) @ value @ params[f"{layer}.out"]
            normed = F.layer_norm(hidden, (width,))
            hidden = hidden + F.gelu(normed @ params[f"{layer}.up"]) @ params[f"{layer}.down"]
        log_p = torch.log_softmax(F.layer_norm(hidden, (width,)) @ params["items"].T, -1)
        return -(soft[:, 1:] * log_p[:, :-1]).sum(-1).mean()

    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return loss(params, torch.softmax(meta["soft"], -1))

    def outer(params: Tensors, meta: Tensors) -> Tensor:
        return loss(params, F.one_hot(real, items).to(params["items"].dtype))

    return Problem("two-layer transformer", inner, outer, params, meta)


def meta_gradient(problem: Problem, steps: int, adjoint: Any, pull_back: Any = None) -> Tensor:
    """The meta-gradient as one vector."""
    result = metagradient(
        problem.inner,
        problem.outer,
        problem.params,
        problem.meta,
        steps=steps,
        optimizer=OPTIMIZER,
        adjoint=adjoint,
        pull_back=pull_back,
    )
    return torch.cat([gradient.reshape(-1) for gradient in result.meta_grads.values()])


def compare_rules(problem: Problem) -> list[dict[str, float]]:
    """Cosine and relative error of the paper's rule against the exact gradient."""
    rows = []
    for steps in STEPS:
        exact = meta_gradient(problem, steps, Stored())
        paper = meta_gradient(problem, steps, Stored(), paper_rule)
        row = {
            "steps": steps,
            "cosine": (exact @ paper / (exact.norm() * paper.norm())).item(),
            "relative_error": ((paper - exact).norm() / exact.norm()).item(),
        }
        if steps <= 20:
            direct = meta_gradient(problem, steps, OPTIMIZER, Direct())
            row["exact_against_autograd"] = ((exact - direct).norm() / direct.norm()).item()
        rows.append(row)
    return rows


def reverse_in_floats(problem: Problem, steps: int) -> float:
    """Relative error of the starting weights, recovered by undoing Adam's formulas in floats."""
    lr, b1, b2 = OPTIMIZER.lr, OPTIMIZER.b1, OPTIMIZER.b2
    names = list(problem.params)

    def gradient(w: list[Tensor], step: int) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in w]
        loss = problem.inner(dict(zip(names, leaves, strict=True)), problem.meta, step)
        return list(torch.autograd.grad(loss, leaves))

    def move(m: Tensor, v: Tensor, step: int) -> Tensor:
        root = torch.sqrt(v / (1 - b2**step) + OPTIMIZER.eps_root)
        return lr * (m / (1 - b1**step)) / (root + OPTIMIZER.eps)

    w = [problem.params[name].clone() for name in names]
    m, v = ([torch.zeros_like(tensor) for tensor in w] for _ in range(2))
    for step in range(1, steps + 1):
        for k, g in enumerate(gradient(w, step - 1)):
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g.square()
            w[k] = w[k] - move(m[k], v[k], step)
    for step in range(steps, 0, -1):
        w = [tensor + move(m[k], v[k], step) for k, tensor in enumerate(w)]
        for k, g in enumerate(gradient(w, step - 1)):
            m[k] = (m[k] - (1 - b1) * g) / b1
            v[k] = (v[k] - (1 - b2) * g.square()) / b2
    start = torch.cat([problem.params[name].reshape(-1) for name in names])
    return ((torch.cat([t.reshape(-1) for t in w]) - start).norm() / start.norm()).item()


def compare_reversals(problem: Problem) -> list[dict[str, float | str | None]]:
    """Error of the recovered start: in floats, and by `Reversible`, which raises if not 0."""
    rows: list[dict[str, float | str | None]] = []
    for steps in STEPS:
        row: dict[str, float | str | None] = {"steps": steps}
        for dtype in (torch.float32, torch.float64):
            error = reverse_in_floats(problem.to(dtype), steps)
            row[str(dtype).removeprefix("torch.")] = error if math.isfinite(error) else None
        meta_gradient(problem.to(torch.float32), steps, OPTIMIZER, Reversible())
        row["reversible"] = 0.0
        rows.append(row)
    return rows


def plot(results: dict[str, Any], path: Path) -> None:
    """Both tables as one figure; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "farzi", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, (rules, reversals) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for problem in results["problems"]:
        rows = problem["rule"]
        steps = [row["steps"] for row in rows]
        rules.plot(steps, [row["cosine"] for row in rows], marker="o", label=problem["name"])
        rows = problem["reversal"]
        for dtype, style in (("float32", "--"), ("float64", "-")):
            known = [(row["steps"], row[dtype]) for row in rows if row[dtype] is not None]
            label = f"{problem['name']}, {dtype}"
            reversals.plot(*zip(*known, strict=True), style, marker="o", label=label)
    rules.set(xscale="log", xlabel="inner steps", ylabel="cosine with the exact gradient")
    rules.axhline(1.0, color="grey", linewidth=0.5)
    rules.set_title("the published rule for Adam")
    reversals.set(xscale="log", yscale="log", xlabel="inner steps")
    reversals.set_ylabel("relative error of the recovered start")
    reversals.set_title("Adam undone in floats (points end where it is NaN)")
    for axes in (rules, reversals):
        axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run both comparisons and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "paper_rule.json")
    parser.add_argument("--plot", type=Path, help="write an SVG here too; needs matplotlib")
    arguments = parser.parse_args()
    results = {
        "optimizer": repr(OPTIMIZER),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "problems": [
            {
                "name": problem.name,
                "rule": compare_rules(problem),
                "reversal": compare_reversals(problem),
            }
            for problem in (transformer(), logistic_regression())
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        plot(results, arguments.plot)
    for problem in results["problems"]:
        print(problem["name"])
        for rule, reversal in zip(problem["rule"], problem["reversal"], strict=True):
            print({**rule, **reversal})


if __name__ == "__main__":
    main()
