"""Exact meta-gradients through long training runs.

from farzi.metagrad import metagradient, Adam

result = metagradient(inner_loss, outer_loss, params, meta, steps=200, optimizer=Adam(lr=0.01))
result.meta_grads, result.param_grads, result.hyper_grads
"""

from __future__ import annotations

from farzi.metagrad.adjoints import Adjoint, Auto, Checkpointed, Direct, Reversible, Stored
from farzi.metagrad.compiled import CompiledLoss
from farzi.metagrad.deferred import readout
from farzi.metagrad.estimate import Estimate, estimate
from farzi.metagrad.functional import functional
from farzi.metagrad.inner_loop import InnerLoss
from farzi.metagrad.metagradient import MetaGradient, OuterLoss, Stats, metagradient
from farzi.metagrad.optimizers import SGD, Accumulator, Adagrad, Adam, AdamW, Optimizer, RMSprop
from farzi.metagrad.rule import update
from farzi.metagrad.smoothness import (
    Agreement,
    Smoothness,
    agreement,
    random_window,
    smoothness,
)
from farzi.metagrad.unroll import unroll
from farzi.metagrad.update import State, init_state, state_names

__all__ = [
    "SGD",
    "Accumulator",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adjoint",
    "Agreement",
    "Auto",
    "Checkpointed",
    "CompiledLoss",
    "Direct",
    "Estimate",
    "InnerLoss",
    "MetaGradient",
    "Optimizer",
    "OuterLoss",
    "RMSprop",
    "Reversible",
    "Smoothness",
    "State",
    "Stats",
    "Stored",
    "agreement",
    "estimate",
    "functional",
    "init_state",
    "metagradient",
    "random_window",
    "readout",
    "smoothness",
    "state_names",
    "unroll",
    "update",
]
