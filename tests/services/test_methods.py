"""The methods of explain and defend as functions, on models whose answers are known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from statistics import NormalDist

import numpy as np
import pytest

from services.defend.methods.ball import Ball, L2Ball, LinfBall
from services.defend.methods.di_mi_fgsm import di_mi_fgsm
from services.defend.methods.fgsm import fgsm
from services.defend.methods.gaussian_smoothing import gaussian_smoothing
from services.defend.methods.mi_fgsm import mi_fgsm
from services.defend.methods.pgd import pgd
from services.defend.methods.pixels import Floats, Images, Randoms, shrunk_to_pixels
from services.defend.methods.randomised_smoothing import certify, lower_bound
from services.defend.methods.resampling import Resampling
from services.defend.methods.resize_and_pad import resize_and_pad
from services.defend.methods.square import square
from services.explain.methods.asking import Derivatives, Remaining
from services.explain.methods.deletion_insertion import Scale, deletion_and_insertion
from services.explain.methods.gradient_times_input import gradient_times_input
from services.explain.methods.integrated_gradients import integrated_gradients
from services.explain.methods.kernel_shap import kernel_shap
from services.explain.methods.lime import lime
from services.explain.methods.occlusion import occlusion, occlusion_closer
from services.explain.methods.preferred_inputs import evolve
from services.explain.methods.rank_correlation import rank_correlation
from services.explain.methods.saliency import saliency
from services.explain.methods.smooth_grad import smooth_grad

pytestmark = pytest.mark.unit

WEIGHTS = np.array([3, -2, 0.5, 0, 1], np.float32)
X = np.array([1, 2, -1, 4, 2], np.float32)
BASELINE = np.array([0, 1, 1, 0, 2], np.float32)
SHARES = WEIGHTS * (X - BASELINE)  # what each feature contributes to a linear answer, by every theory


async def linear(xs: Floats) -> AsyncIterator[Derivatives]:
    """The gradients of x @ WEIGHTS, two inputs at a time."""
    for part in np.array_split(xs, -(-len(xs) // 2)):
        yield Derivatives(np.broadcast_to(WEIGHTS, part.shape), part @ WEIGHTS)


async def squared(xs: Floats) -> AsyncIterator[Derivatives]:
    yield Derivatives(2 * xs * WEIGHTS, np.square(xs) @ WEIGHTS)


async def remaining(kept: Floats) -> Floats:
    return np.asarray((kept * X + (1 - kept) * BASELINE) @ WEIGHTS)


async def test_gradients_of_a_linear_answer_are_its_weights() -> None:
    np.testing.assert_array_equal(await saliency(X, linear), np.abs(WEIGHTS))
    np.testing.assert_array_equal(await gradient_times_input(X, BASELINE, linear), SHARES)
    smooth = await smooth_grad(X, linear, scale=np.ones((), np.float32), size=0.5, samples=5, seed=1)
    np.testing.assert_allclose(smooth, np.abs(WEIGHTS), rtol=1e-6)


async def test_integrated_gradients_add_up_where_gradients_turn() -> None:
    values, difference = await integrated_gradients(X, BASELINE, squared, steps=3)
    np.testing.assert_allclose(values, WEIGHTS * (X**2 - BASELINE**2), rtol=1e-5)
    assert values.sum() == pytest.approx(difference, rel=1e-6)


async def test_what_takes_parts_away_gives_each_its_share() -> None:
    each = np.arange(len(X))
    windows = [(slice(i, i + 1),) for i in each]
    np.testing.assert_allclose(await occlusion(X.shape, windows, remaining), SHARES, atol=1e-5)
    values, difference = await kernel_shap(each, remaining, samples=40, seed=1)
    np.testing.assert_allclose(values, SHARES, atol=1e-5)
    assert difference == pytest.approx(SHARES.sum())
    weights = await lime(each, remaining, samples=2000, seed=1)
    assert rank_correlation(weights.astype(np.float32), SHARES) > 0.9


async def test_slabs_that_matter_are_taken_apart_and_others_are_not() -> None:
    """A map of 6 x 4, of which the output knows one cell, and a little of another."""
    weights = np.zeros((6, 4), np.float32)
    weights[1, 2], weights[4, 0] = 5, 0.01
    asked: list[int] = []

    async def of_map(kept: np.ndarray) -> Floats:
        asked.append(len(kept))
        return np.asarray((kept * weights).sum((1, 2)), np.float32)

    cells = [[(slice(i, i + 1), slice(j, j + 1)) for j in range(4)] for i in range(6)]
    every = await occlusion(weights.shape, [cell for slab in cells for cell in slab], of_map)
    np.testing.assert_allclose(every, weights, atol=1e-5)
    np.testing.assert_allclose(await occlusion_closer(weights.shape, cells, of_map, share=0.001), weights, atol=1e-5)
    asked.clear()
    closer = await occlusion_closer(weights.shape, cells, of_map, share=0.1)
    np.testing.assert_allclose(closer[1], weights[1], atol=1e-5)
    np.testing.assert_allclose(closer[4], weights[4].mean(), atol=1e-5)
    assert asked == [6 + 1, 4 + 1]


async def test_players_of_one_group_share_its_value() -> None:
    values, _ = await kernel_shap(np.array([0, 0, 1, 1, 1]), remaining, samples=20, seed=1)
    np.testing.assert_allclose(values, [*[SHARES[:2].sum() / 2] * 2, *[SHARES[2:].sum() / 3] * 3], atol=1e-5)


async def test_the_right_order_deletes_faster_and_inserts_faster_than_the_wrong_one() -> None:
    scale = Scale.between(*(await remaining(np.array([[1], [0]]) * np.ones_like(X))))

    async def areas(attribution: Floats, ask: Remaining = remaining) -> tuple[float, float]:
        return await deletion_and_insertion(attribution, np.arange(len(X)), ask, ask, signed=True, scale=scale)

    (deletion, insertion), (wrong_deletion, wrong_insertion) = await areas(SHARES), await areas(-SHARES)
    assert deletion < wrong_deletion
    assert insertion > wrong_insertion


async def test_an_evolution_finds_what_is_rated_highest() -> None:
    async def generate(codes: Floats, labels: object) -> Floats:
        assert labels is None
        return codes

    async def rate(codes: Floats) -> tuple[Floats, Floats]:
        return -np.square(codes - 1).sum(1), np.ones(len(codes), np.float32)

    best, at_first = await evolve(generate, rate, size=3, labels=0, generations=20, seed=1)
    assert at_first < -3 < -0.1 < best.rating
    np.testing.assert_allclose(best.image, 1, atol=0.3)


IMAGES = np.random.default_rng(0).integers(20, 236, (3, 8, 8, 3), np.uint8)
SLOPE = np.random.default_rng(1).standard_normal(IMAGES.shape[1:], np.float32)


def randoms(seed: int = 0) -> Randoms:
    return [np.random.default_rng((seed, i)) for i in range(len(IMAGES))]


async def uphill(xs: Floats) -> Floats:
    """The gradient of (x * SLOPE).sum()."""
    return np.broadcast_to(SLOPE, xs.shape)


@pytest.mark.parametrize("ball", [LinfBall(8.0), L2Ball(100.0)], ids=["linf", "l2"])
async def test_attacks_of_a_linear_answer_reach_the_edge_of_their_ball(ball: Ball) -> None:
    steps = {"step": ball.epsilon / 4, "steps": 40}
    attacked = [
        await fgsm(IMAGES, uphill, ball, randoms()),
        await mi_fgsm(IMAGES, uphill, ball, randoms(), **steps, decay=1.0),
        await pgd(IMAGES, uphill, ball, randoms(), **steps),
    ]
    for xs in attacked:
        np.testing.assert_allclose(xs, IMAGES + ball.epsilon * ball.steepest(SLOPE[None]), atol=0.01)
    diverse = await di_mi_fgsm(IMAGES, uphill, ball, randoms(), **steps, decay=1.0, diversity=0.5)
    assert ((diverse - IMAGES) * SLOPE).sum() > 0
    np.testing.assert_allclose(ball.nearest(diverse, IMAGES.astype(np.float32)), diverse, atol=0.01)


async def test_square_comes_nearer_by_answers_alone_and_stops_once_it_is_there() -> None:
    queries = 0

    async def margins(images: Images) -> Floats:
        nonlocal queries
        queries += 1
        return 50 - ((images.astype(np.float32) - IMAGES) * SLOPE).sum((1, 2, 3))

    xs = await square(IMAGES, margins, randoms(), epsilon=8.0, queries=500)
    attacked = shrunk_to_pixels(xs, IMAGES, 8.0)
    assert (await margins(attacked) < 0).all()
    assert np.abs(attacked.astype(int) - IMAGES).max() <= 8
    assert queries < 500


@pytest.mark.parametrize(
    "resampling", [gaussian_smoothing(8, 8, 1.5), resize_and_pad(8, 8, 0.6, randoms())], ids=["blur", "resize"]
)
def test_gradients_come_back_as_by_the_transposed_map(resampling: Resampling) -> None:
    xs = IMAGES.astype(np.float32)
    there, back = (resampling.apply(xs) * SLOPE).sum(), (xs * resampling.adjoint(np.stack([SLOPE] * 3))).sum()
    assert there == pytest.approx(back, rel=1e-4)


async def test_a_certificate_is_as_wide_as_its_votes_allow() -> None:
    async def always_one(copies: Images) -> np.ndarray:
        return np.ones(len(copies), np.int64)

    certified = await certify(IMAGES[0], always_one, randoms()[0], classes=3, noise=0.1, samples=100, confidence=0.999)
    assert (certified.index, certified.share) == (1, 1.0)
    assert lower_bound(80, 80, 0.001) == pytest.approx(0.001 ** (1 / 80))
    assert certified.radius == pytest.approx(0.1 * NormalDist().inv_cdf(0.001 ** (1 / 80)))
    assert lower_bound(0, 80, 0.001) == 0
