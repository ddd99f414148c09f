"""How poems are drawn: `top_k` and `top_p` keep what they say, in each row as it asks."""

from __future__ import annotations

import pytest
import torch

from training.methods.transformer import MASKED
from training.recipes.poem_generator import draw, kth

TOKENS = 500


@pytest.mark.parametrize("asked", [[0, 0, 0], [0, 7, 0], [3, 0, TOKENS - 1], [TOKENS, 1, 0], [TOKENS + 9, 2**32, 250]])
def test_each_row_is_ranked_to_the_place_that_it_asks_for(asked: list[int]) -> None:
    scores = torch.randn(len(asked), TOKENS, generator=torch.Generator().manual_seed(0))
    ranked = kth(scores, torch.tensor(asked, dtype=torch.float32)[:, None])
    best = scores.sort(descending=True).values
    expected = [best[row, k - 1].item() if 0 < k < TOKENS else MASKED for row, k in enumerate(asked)]
    assert ranked[:, 0].tolist() == expected


def test_a_draw_is_among_the_likeliest_whatever_its_neighbours_ask_for() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(64, TOKENS, generator=generator), torch.rand(64, 1, generator=generator)
    top_p, few = torch.ones(64, 1), torch.full((64, 1), 5.0)
    mixed = few.clone()
    mixed[::2] = TOKENS - 1
    alike, among = draw(logits, few, top_p, noise), draw(logits, mixed, top_p, noise)
    assert torch.equal(alike[1::2], among[1::2])
    assert (logits.topk(5).indices == alike).any(1).all()
    assert len(set(among[::2, 0].tolist()) - set(logits[::2].topk(5).indices.flatten().tolist())) > 1
