"""FMLP-Rec (Zhou et al. 2022): learnable filters in place of attention, made causal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from farzi.models.base import Head, Params
from farzi.models.blocks import draw_parameters, dropout, feed_forward, norm

__all__ = ["FMLP", "causal_filter"]


def causal_filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of a whole sequence with a kernel as long as itself, in the frequency domain.

    `y_t = sum_{k <= t} w_k x_{t-k}`, a channel at a time. Sequence and kernel are padded with zeros
    to twice the length before the Fourier transform, so that no position wraps around to an earlier
    one.

    Args:
        x: (..., L, W).
        kernel: (N, W) with N >= L; row k weighs what stands k positions back.

    Returns:
        (..., L, W).

    Cost:
        Three real Fourier transforms of length 2 L for every channel and sequence.
    """
    length = x.shape[-2]
    size = 2 * length
    filtered = torch.fft.rfft(x, size, dim=-2) * torch.fft.rfft(kernel[:length], size, dim=-2)
    whole: Tensor = torch.fft.irfft(filtered, size, dim=-2)
    return whole[..., :length, :]


@dataclass(frozen=True)
class FMLP:
    """Blocks of a learnable filter over positions and a feed-forward layer, both post-norm.

    The published filter multiplies the Fourier transform of the L positions by learnable complex
    weights. That is a circular convolution, so that every position reads those after it: the model
    can only be trained on what follows a whole history. Here the filter is held as its kernel in
    the time domain, (L, W) real numbers, as many as the complex weights have, and applied as a
    causal convolution (`causal_filter`): position t reads t and those before it. At the last
    position of a full history the two are the same family of functions, since a circular
    convolution reads every position there as well; and all positions can be trained at once.

    Args:
        num_tokens: number of items V.
        context_length: longest sequence it reads, L.
        width: model width W.
        num_layers: number of blocks.
        dropout: rate in [0, 1), used only where a generator is passed.

    Example:
        >>> import torch
        >>> from farzi.models import FMLP
        >>> student = FMLP(num_tokens=10, context_length=4, width=8)
        >>> params = student.init(torch.Generator().manual_seed(0))
        >>> student.hidden(params, torch.zeros(2, 4, 8)).shape
        torch.Size([2, 4, 8])

    References:
        Zhou et al. 2022, arXiv 2202.13556.
    """

    name: ClassVar[str] = "fmlp"

    num_tokens: int
    context_length: int
    width: int = 16
    num_layers: int = 1
    dropout: float = 0.0

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Embeddings N(0, 1/W), kernels N(0, 1/L), matrices Xavier-uniform, norms 1, biases 0."""
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self.num_tokens, width),
            "position": (self.context_length, width),
            "norm.weight": (width,),
            "norm.bias": (width,),
        }
        for layer in range(self.num_layers):
            block = f"blocks.{layer}"
            shapes |= {
                f"{block}.filter": (self.context_length, width),
                f"{block}.norm1.weight": (width,),
                f"{block}.norm1.bias": (width,),
                f"{block}.feed_forward.up.weight": (4 * width, width),
                f"{block}.feed_forward.up.bias": (4 * width,),
                f"{block}.feed_forward.down.weight": (width, 4 * width),
                f"{block}.feed_forward.down.bias": (width,),
                f"{block}.norm2.weight": (width,),
                f"{block}.norm2.bias": (width,),
            }
        params = draw_parameters(shapes, generator, dtype)
        for layer in range(self.num_layers):
            kernel = torch.randn(self.context_length, width, generator=generator, dtype=dtype)
            params[f"blocks.{layer}.filter"] = kernel / self.context_length**0.5
        return params

    def embedding(self, params: Params) -> Tensor:
        """The item embedding (V, W), which is the head as well."""
        return params["embedding"]

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Hidden states (B, L, W) from raw item embeddings (B, L, W)."""
        x = norm(params, "norm", embedded + params["position"][: embedded.shape[-2]])
        x = dropout(x, self.dropout, generator)
        for layer in range(self.num_layers):
            block = f"blocks.{layer}"
            mixed = dropout(causal_filter(x, params[f"{block}.filter"]), self.dropout, generator)
            x = norm(params, f"{block}.norm1", x + mixed)
            fed = feed_forward(params, f"{block}.feed_forward", x, "gelu")
            x = norm(params, f"{block}.norm2", x + dropout(fed, self.dropout, generator))
        return x

    def head(self, params: Params) -> Head:
        """The embedding itself, without a bias."""
        return Head(params["embedding"])

    def settings(self) -> dict[str, str | int | float]:
        """Name and sizes."""
        return {"name": self.name, **asdict(self)}
