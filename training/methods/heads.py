"""Linear layers that learned with the encoder and go on learning when that is done."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS, VECTORS_AT_ONCE, RATE, WEIGHT_DECAY = 40, 256, 2e-3, 0.01


def go_on(layer: nn.Linear, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> None:
    """Fit a layer to vectors [N, width] and their classes [N], for as long as it tells those of validation better."""
    layer.requires_grad_(True)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    best = (float("inf"), deepcopy(layer.state_dict()))
    for _ in range(EPOCHS):
        for chosen in torch.split(torch.randperm(len(train[1])), VECTORS_AT_ONCE):
            optimizer.zero_grad()
            F.cross_entropy(layer(train[0][chosen]), train[1][chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            surprise = float(F.cross_entropy(layer(validation[0]), validation[1]))
        if surprise < best[0]:
            best = (surprise, deepcopy(layer.state_dict()))
    layer.load_state_dict(best[1])
    layer.requires_grad_(False)
