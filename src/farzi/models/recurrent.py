"""Recurrent layers as pure functions: GRU and LSTM over a sequence, with torch's parameters.

The products with the inputs of all positions are one; what is left for each position is one product
with the state and its gates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farzi.models.base import Params
from farzi.models.fused.ops import linear

__all__ = ["CELLS", "gru", "layer_shapes", "lstm"]


def gru(params: Params, name: str, x: Tensor) -> Tensor:
    """One layer of gated recurrent units, as `torch.nn.GRU` computes it, from a state of zeros.

        r, z = sigmoid(W_r x_t + U_r h + b), likewise z
        n    = tanh(W_n x_t + b_n + r (U_n h + c_n))
        h'   = n + z (h - n)

    Args:
        params: `name.input.weight` (3 W, E), `name.input.bias` (3 W,), `name.state.weight` (3 W, W)
            and `name.state.bias` (3 W,): torch's `weight_ih`, `bias_ih`, `weight_hh`, `bias_hh`.
        name: of the layer.
        x: inputs (B, L, E).

    Returns:
        The state after every position (B, L, W).

    Accuracy:
        Within 1e-5 of `torch.nn.GRU` in float32 (tests/unit/models/test_recurrent.py).

    References:
        Cho et al. 2014, arXiv 1406.1078.
    """
    inputs, weight, bias = _of_inputs(params, name, x)
    width = weight.shape[1]
    h = x.new_zeros(*x.shape[:-2], width)
    states = []
    for given in inputs.unbind(-2):
        recurrent = torch.addmm(bias, h, weight.T) if h.ndim == 2 else h @ weight.T + bias
        r, z = (given[..., : 2 * width] + recurrent[..., : 2 * width]).sigmoid().chunk(2, -1)
        n = torch.addcmul(given[..., 2 * width :], r, recurrent[..., 2 * width :]).tanh()
        h = torch.lerp(n, h, z)
        states.append(h)
    return torch.stack(states, -2)


def lstm(params: Params, name: str, x: Tensor) -> Tensor:
    """One layer of long short-term memory, as `torch.nn.LSTM` computes it, from zeros.

        i, f, o = sigmoid(W x_t + U h + b)        g = tanh(W_g x_t + U_g h + b_g)
        c'      = f c + i g                       h' = o tanh(c')

    Args:
        params: as of `gru`, with 4 W in place of 3 W: i, f, g, o.
        name: of the layer.
        x: inputs (B, L, E).

    Returns:
        The state h after every position (B, L, W).

    Accuracy:
        Within 1e-5 of `torch.nn.LSTM` in float32 (tests/unit/models/test_recurrent.py).

    References:
        Hochreiter and Schmidhuber 1997.
    """
    inputs, weight, bias = _of_inputs(params, name, x)
    width = weight.shape[1]
    h = c = x.new_zeros(*x.shape[:-2], width)
    states = []
    for given in (inputs + bias).unbind(-2):
        gates = torch.addmm(given, h, weight.T) if h.ndim == 2 else given + h @ weight.T
        i, f = gates[..., : 2 * width].sigmoid().chunk(2, -1)
        g, o = gates[..., 2 * width : 3 * width].tanh(), gates[..., 3 * width :].sigmoid()
        c = torch.addcmul(f * c, i, g)
        h = o * c.tanh()
        states.append(h)
    return torch.stack(states, -2)


CELLS = {"gru": gru, "lstm": lstm}
"""The layers by name."""

_GATES = {"gru": 3, "lstm": 4}


def layer_shapes(
    name: str, input_width: int, width: int, cell: str = "gru"
) -> dict[str, tuple[int, ...]]:
    """Parameter shapes of one layer."""
    rows = _GATES[cell] * width
    return {
        f"{name}.input.weight": (rows, input_width),
        f"{name}.input.bias": (rows,),
        f"{name}.state.weight": (rows, width),
        f"{name}.state.bias": (rows,),
    }


def _of_inputs(params: Params, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the inputs of all positions add to the gates, and the state's weight and bias."""
    inputs = linear(x, params[f"{name}.input.weight"], params[f"{name}.input.bias"])
    return inputs, params[f"{name}.state.weight"], params[f"{name}.state.bias"]
