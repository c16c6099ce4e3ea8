"""The recurrent layers against torch's own."""

from __future__ import annotations

import pytest
import torch

from farzi.models.recurrent import CELLS, layer_shapes

OURS = {"input.weight": "weight_ih_l0", "input.bias": "bias_ih_l0"}
OURS |= {"state.weight": "weight_hh_l0", "state.bias": "bias_hh_l0"}


def layer(cell: str, input_width: int, width: int, dtype: torch.dtype):
    torch.manual_seed(0)
    module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](
        input_width, width, batch_first=True, dtype=dtype
    )
    return module, {f"a.{name}": getattr(module, theirs) for name, theirs in OURS.items()}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("widths", [(8, 8), (5, 7)])
def test_states_are_torch_s(cell: str, widths: tuple[int, int]) -> None:
    module, params = layer(cell, *widths, torch.float32)
    assert {name: tuple(value.shape) for name, value in params.items()} == layer_shapes(
        "a", *widths, cell
    )
    x = torch.randn(3, 9, widths[0], generator=torch.Generator().manual_seed(1))
    expected = module(x)[0]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(CELLS[cell](params, "a", x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_derivatives_are_torch_s_and_the_second_is_right(cell: str) -> None:
    module, params = layer(cell, 3, 4, torch.float64)
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [*params.values()]
    direction = torch.randn(2, 5, 4, dtype=torch.float64)
    grads, expected = (
        torch.autograd.grad((states * direction).sum(), leaves)
        for states in (CELLS[cell](params, "a", x), module(x)[0])
    )
    torch.testing.assert_close(grads, expected, rtol=1e-10, atol=1e-12)

    def states(x, *values):
        return CELLS[cell](dict(zip(params, values, strict=True)), "a", x)

    inputs = [value.detach().requires_grad_() for value in (x, *leaves)]
    assert torch.autograd.gradgradcheck(states, inputs)
    assert torch.autograd.gradcheck(states, inputs)


@pytest.mark.parametrize("cell", CELLS)
def test_several_models_at_once(cell: str) -> None:
    _, params = layer(cell, 3, 4, torch.float64)
    stacked = {name: torch.stack([value, 2 * value]).detach() for name, value in params.items()}
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    both = torch.vmap(lambda params: CELLS[cell](params, "a", x))(stacked)
    for index in range(2):
        one = {name: value[index] for name, value in stacked.items()}
        torch.testing.assert_close(both[index], CELLS[cell](one, "a", x))
