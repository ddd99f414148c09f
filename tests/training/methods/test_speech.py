"""The speech recipes: what their front end computes, what a network's answer depends on, every network exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.conftest import ROOT
from training.data import festvox_ru, voices
from training.data.audio import RATE, pack, read, unpack
from training.export.onnx import export_graph
from training.methods.speech import FLOOR, HOP, STEP, WINDOW, LogMel, mel_filters
from training.recipes.phoneme_classifier import FAST, NetworkSettings, PhonemeClassifier
from training.recipes.speaker_classifier import Scores, equal_error, without_channel
from training.trained import Graph

SECOND = RATE // HOP


def assert_alike(answer: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the order of summation, which differs by CPU and by length: relative to the largest value."""
    torch.testing.assert_close(answer, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    return read(ROOT / "docs" / "examples" / "sentence.wav")


LOCAL = [settings for settings in FAST if settings.network != "BiLSTM"]


@pytest.fixture(params=LOCAL, ids=lambda settings: settings.network)
def net(request: pytest.FixtureRequest) -> PhonemeClassifier:
    """One of those that may be shipped."""
    settings: NetworkSettings = request.param
    torch.manual_seed(0)
    return PhonemeClassifier(settings).eval()


@pytest.mark.unit
def test_energies_are_those_of_a_fourier_transform(sentence: np.ndarray) -> None:
    energies = LogMel()(torch.from_numpy(sentence)[None])[0].numpy()
    padded = np.pad(sentence, (WINDOW - HOP) // 2) / 32768
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = torch.hann_window(WINDOW).numpy()
    hertz = np.fft.rfftfreq(512, 1 / RATE)
    wanted = np.log((np.abs(np.fft.rfft(frames * window, 512)) ** 2) @ mel_filters(hertz).numpy() + FLOOR)
    assert energies.shape == (len(sentence) // HOP, 48)
    loud = wanted > -6
    assert np.abs(energies - wanted)[loud].max() < 0.05  # cosines are rounded to float16
    assert np.abs(energies - wanted)[loud].mean() < 1e-3


@torch.no_grad()
@pytest.mark.unit
def test_what_lies_behind_a_clip_changes_nothing(net: PhonemeClassifier, sentence: np.ndarray) -> None:
    short = torch.from_numpy(sentence[: 50 * STEP])[None]
    long = torch.cat([short, torch.zeros(1, 30 * STEP, dtype=torch.int16)], dim=1)
    lengths = torch.tensor([[short.shape[1]]])
    assert_alike(net(short, lengths), net(long, lengths)[:, : 50 * 2])


@torch.no_grad()
@pytest.mark.unit
def test_an_answer_depends_on_its_context_only(net: PhonemeClassifier, sentence: np.ndarray) -> None:
    samples = torch.from_numpy(sentence[: 4 * RATE])[None]
    lengths = torch.tensor([[4 * RATE]])
    start = -(-net.network.context // STEP) * STEP
    kept = slice(start // HOP, 4 * SECOND - start // HOP)
    changed = samples.clone()
    changed[:, : RATE // 10 * 2] = 0
    whole = net(samples, lengths)
    first = RATE // 10 * 2 // HOP + start // HOP  # the first frame whose context was left alone
    assert_alike(net(changed, lengths)[:, first:], whole[:, first:])
    cut = net(samples[:, STEP * 20 :], lengths - STEP * 20)
    assert_alike(cut[:, kept], whole[:, 40:][:, kept])


def test_every_network_is_exported_as_it_is(net: PhonemeClassifier, sentence: np.ndarray, tmp_path: Path) -> None:
    samples = torch.from_numpy(np.stack([sentence[: 40 * STEP], sentence[-40 * STEP :]]))
    inputs = {"samples": samples, "lengths": torch.tensor([[40 * STEP], [9_999]])}
    graph = Graph(net, inputs, ("logits",), {"samples": (1,)})
    assert export_graph(graph, tmp_path / "model.onnx").max_abs_diff < 1e-3


@pytest.mark.unit
def test_clips_come_back_as_they_were_packed(sentence: np.ndarray) -> None:
    clips = [sentence[:100], sentence[100:5_000], sentence[5_000:5_001]]
    for clip, wanted in zip(unpack(**pack(clips)), clips, strict=True):
        np.testing.assert_array_equal(clip, wanted)


@pytest.mark.unit
def test_a_frame_has_the_phone_at_its_centre(tmp_path: Path, sentence: np.ndarray) -> None:
    for folder in ("wav", "lab"):
        (tmp_path / folder).mkdir()
    soundfile.write(tmp_path / "wav" / "ru_1.wav", sentence[: 8 * HOP + 100], RATE)
    (tmp_path / "lab" / "ru_1.lab").write_text("#\n0.02400 125 pau\n0.05400 125 aa\n0.06000 125 k\n")
    phones = festvox_ru.sentence(tmp_path, "ru_1").phones
    assert [festvox_ru.PHONES[i] for i in phones] == ["pau", "pau", "aa", "aa", "aa", "k", "pau", "pau"]


def test_voices_are_split_by_position_and_small_ones_are_unknown() -> None:
    clips = {"a": [np.full(1, i, np.int16) for i in range(45)], "b": [np.zeros(1, np.int16)], "c": [], "d": []}
    data = voices.split(clips, fewest=2)
    assert data.names == ("a",)
    assert [int(c[0]) for c in data.test.clips] == list(range(0, 45, 5))
    assert [int(c[0]) for c in data.validation.clips] == [1, 11, 21, 31, 41]
    assert len(data.train) + len(data.validation) + len(data.test) == 45
    assert (data.unknown_test.names, data.unknown_validation.names) == (("b", "d"), ("c",))


@pytest.mark.unit
def test_equal_error_is_where_both_errors_meet() -> None:
    same, other = np.array([0.2, 0.6, 0.7, 0.9]), np.array([-0.5, 0.0, 0.1, 0.65])
    error = equal_error(Scores(same.astype(np.float32), other.astype(np.float32), np.zeros((0, 2), np.int64)))
    assert error.rate == pytest.approx(0.25)
    assert 0.2 < error.threshold <= 0.65
    assert equal_error(Scores(np.array([0.9]), np.array([0.1]), np.zeros((0, 2), np.int64))).rate == 0


@pytest.mark.unit
def test_a_clip_without_its_channel_sounds_alike_however_it_was_recorded(sentence: np.ndarray) -> None:
    dull = np.convolve(sentence, [0.25, 0.5, 0.25], "same").astype(np.int16) // 3
    energies = [
        LogMel()(torch.from_numpy(without_channel(clip, np.random.default_rng(0)))[None])[0].numpy()
        for clip in (sentence, dull)
    ]
    telephone = energies[0][:, :36]  # below 3.8 kHz
    assert np.abs(energies[1][:, :36] - telephone).mean() < 0.2
