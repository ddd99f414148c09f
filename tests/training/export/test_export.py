"""What training writes: tables and figures in the card, several versions at once, finished graphs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from pydantic import ValidationError
from torch import nn

from artifacts import card
from artifacts.card import Card, DataSource, Metric, Table, TabularPreprocessing
from artifacts.versions import present_versions, promote, read_config, served_versions
from inference import model_config_pb2
from tests.conftest import EXPORTED
from training.data.fetch import sha256_file
from training.export.onnx import export_graph, load_weights, round_to_bytes
from training.export.parity import ExportError, ParityError
from training.export.quantize import quantize
from training.export.version import with_palette, write_version, write_versions
from training.recipes import (
    pos_tagger,
    question_answerer,
    slot_tagger,
    style_rewriter,
    text_encoder,
    translator_en_zh,
    word_vectors,
)
from training.served import png
from training.trained import Figure, Graph, Trained

TABLE = Table(title="sizes", columns=("network", "bytes"), rows=(("linear", 12), ("none", 0.5)))


def picture(mode: str) -> bytes:
    """A PNG file of 160 x 120 pixels, in many colours or grey."""
    rows, columns = np.mgrid[:120, :160]
    grain = np.random.default_rng(0).integers(0, 9, (120, 160, 3))
    pixels = (np.stack([rows * 2, columns, rows + columns // 2], 2) + grain).astype(np.uint8)
    return png(pixels if mode == "RGB" else pixels[:, :, 0])


@pytest.fixture
def trained() -> Trained:
    """A linear layer, untrained."""
    return Trained(
        title="linear",
        lecture="HW1",
        capability="predict",
        task="test",
        description="A layer.",
        graphs={"forward": Graph(nn.Linear(2, 1), {"features": torch.randn(2, 2)}, ("prediction",))},
        preprocessing=TabularPreprocessing(features=("a", "b"), targets=("y",)),
        metrics=(Metric(name="mse", value=1.0, split="test", n=1),),
        data=(DataSource(source="none", version="0", sha256="0" * 64, licence="", train=0, validation=0, test=0),),
        device="CPU",
        parameters=3,
    )


def test_a_card_holds_tables_and_figures(tmp_path: Path, trained: Trained) -> None:
    figure = Figure("A curve", "curve.png", picture("RGB"))
    write_version("linear", replace(trained, tables=(TABLE,), figures=(figure,)), tmp_path, "test", 0, 0.0)
    card = Card.read(tmp_path / "linear" / "1" / "card.json")
    assert card.tables == (TABLE,)
    assert [type(cell) for cell in card.tables[0].rows[0]] == [str, int]
    assert [(f.title, f.file) for f in card.figures] == [("A curve", "curve.png")]
    assert Image.open(tmp_path / "linear" / "1" / "curve.png").size == (160, 120)
    for relative, checksum in card.files.items():
        assert sha256_file(tmp_path / relative) == checksum
    with pytest.raises(ValidationError, match=r"checksum of the figure curve\.png"):
        Card.model_validate(card.model_dump() | {"files": {}})


def test_a_config_is_for_one_thread_a_run(tmp_path: Path, trained: Trained) -> None:
    write_version("linear", trained, tmp_path, "test", 0, 0.0)
    assert read_config(tmp_path / "linear").parameters["intra_op_thread_count"].string_value == "1"


def test_a_config_says_how_a_graph_is_padded(tmp_path: Path, trained: Trained) -> None:
    padded = replace(trained.graphs["forward"], padding={"padded_axis": 1, "batch_budget": 256})
    write_version("linear", replace(trained, graphs={"forward": padded}), tmp_path, "test", 0, 0.0)
    parameters = read_config(tmp_path / "linear").parameters
    assert (parameters["padded_axis"].string_value, parameters["batch_budget"].string_value) == ("1", "256")


class Recurrent(nn.Module):
    """Rows float32 [N, T, 2] -> states float32 [N, T, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.lstm(rows)[0]
        return states


def test_an_output_varies_with_its_input_through_an_lstm(tmp_path: Path, trained: Trained) -> None:
    graph = Graph(Recurrent(), {"rows": torch.randn(2, 5, 2)}, ("states",), {"rows": (1,)}, padding={"padded_axis": 1})
    write_version("recurrent", replace(trained, graphs={"forward": graph}), tmp_path, "test", 0, 0.0)
    (output,) = read_config(tmp_path / "recurrent").output
    assert list(output.dims) == [-1, 3]
    model = onnx.load(tmp_path / "recurrent" / "1" / "model.onnx")
    axes = [value.type.tensor_type.shape.dim[1].dim_param for value in (*model.graph.input, *model.graph.output)]
    assert axes[0] == axes[1] != ""


@pytest.mark.parametrize(
    "recipe",
    [pos_tagger, question_answerer, slot_tagger, style_rewriter, text_encoder, translator_en_zh, word_vectors],
)
def test_committed_configs_pad_as_their_recipes_say(recipe: ModuleType) -> None:
    parameters = read_config(EXPORTED / recipe.__name__.rpartition(".")[2]).parameters
    assert {name: int(parameters[name].string_value) for name in recipe.PADDING} == recipe.PADDING


@pytest.mark.unit
def test_a_figure_is_kept_in_256_colours_that_look_the_same() -> None:
    reduced = with_palette(picture("RGB"))
    assert len(reduced) < len(picture("RGB"))
    exact, kept = (np.asarray(Image.open(io.BytesIO(p)).convert("RGB")).astype(int) for p in (picture("RGB"), reduced))
    assert np.abs(exact - kept).mean() < 4
    assert with_palette(picture("L")) == picture("L")


@pytest.mark.parametrize(("at_most", "met"), [(False, [True, True, False]), (True, [False, True, True])])
@pytest.mark.unit
def test_a_target_is_a_floor_or_a_ceiling(at_most: bool, met: list[bool]) -> None:
    metrics = [Metric(name="m", value=v, split="test", n=1, target=2, at_most=at_most) for v in (3, 2, 1)]
    assert [m.met for m in metrics] == met
    sign = "≤" if at_most else "≥"
    assert [m.target_text for m in metrics] == [f"{sign} 2{'' if m else ', missed'}" for m in met]
    assert Metric(name="m", value=1, split="test", n=1).met


@pytest.mark.unit
def test_a_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValidationError, match="2 cells"):
        Table(title="sizes", columns=("network", "bytes"), rows=(("linear",),))


@pytest.mark.parametrize("file", ["../evil.png", "sub/curve.png", "curve.svg", ".png"])
@pytest.mark.unit
def test_a_figure_lies_beside_its_card(file: str) -> None:
    with pytest.raises(ValidationError):
        card.Figure(title="A curve", file=file)


def test_versions_made_together_are_served_together(tmp_path: Path, trained: Trained) -> None:
    for _ in range(2):
        write_versions("linear", (trained, replace(trained, title="second")), tmp_path, "test", 0, 0.0)
    cards = [Card.read(tmp_path / "linear" / str(version) / "card.json") for version in (1, 2, 3, 4)]
    assert [c.title for c in cards] == ["linear", "second"] * 2
    config = text_format.Parse((tmp_path / "linear" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.version_policy.latest.num_versions == 2


def export(trained: Trained, repository: Path, *, promoted: bool = True) -> None:
    write_versions("linear", (trained,), repository, "test", 0, 0.0, promoted)


def test_a_version_that_is_not_promoted_is_not_served(tmp_path: Path, trained: Trained) -> None:
    export(two_graphs := replace(trained, graphs={**trained.graphs, "copy": trained.graphs["forward"]}), tmp_path)
    for _ in range(2):
        export(two_graphs, tmp_path, promoted=False)
    for graph in ("linear", "linear_copy"):
        assert present_versions(tmp_path / graph) == [3, 2, 1]
        assert served_versions(tmp_path / graph) == [1]
    export(two_graphs, tmp_path)
    for graph in ("linear", "linear_copy"):
        assert served_versions(tmp_path / graph) == [4]
        assert not (tmp_path / graph / "4" / "config.pbtxt").exists()


def test_an_operators_configuration_is_kept(tmp_path: Path, trained: Trained) -> None:
    export(trained, tmp_path)
    config = tmp_path / "linear" / "config.pbtxt"
    config.write_text(edited := config.read_text().replace("count: 1", "count: 3  # three cores"))
    export(trained, tmp_path)
    assert config.read_text() == edited
    export(trained, tmp_path, promoted=False)
    assert config.read_text().startswith(edited)
    assert read_config(config.parent).version_policy.specific.versions == [2]


def test_other_inputs_are_configured_once_they_are_served(tmp_path: Path, trained: Trained) -> None:
    wide = Graph(nn.Linear(3, 1), {"features": torch.randn(2, 3)}, ("prediction",))
    wider = replace(trained, graphs={"forward": wide})
    export(trained, tmp_path)
    export(wider, tmp_path, promoted=False)
    widths = []
    for versions in ([], [2], [1], [2], [1, 2]):
        if versions:
            promote(tmp_path, "linear", versions)
        widths.append((served_versions(tmp_path / "linear"), list(read_config(tmp_path / "linear").input[0].dims)))
    assert widths == [([1], [2]), ([2], [3]), ([1], [2]), ([2], [3]), ([2, 1], [3])]
    export(trained, tmp_path)
    assert served_versions(tmp_path / "linear") == [3]
    assert list(read_config(tmp_path / "linear").input[0].dims) == [2]


def test_a_finished_graph_is_compared_with_the_module_too(tmp_path: Path, trained: Trained) -> None:
    export_graph(trained.graphs["forward"], path := tmp_path / "linear.onnx")
    other = replace(trained.graphs["forward"], module=nn.Linear(2, 1), onnx=path.read_bytes())
    with pytest.raises(ExportError, match="differs from torch"):
        export_graph(other, path)
    quantised = quantize(path.read_bytes(), {"features": np.zeros((2, 2), np.float32)})
    assert {"QuantizeLinear", "DequantizeLinear"} <= {
        node.op_type for node in onnx.load_from_string(quantised).graph.node
    }


class Scaled(nn.Module):
    """Its input times a factor, or something that is no number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.factor


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(tmp_path: Path, factor: float) -> None:
    graph = Graph(Scaled(factor), {"features": torch.ones(2, 2)}, ("logits",))
    with pytest.raises(ParityError, match="no finite numbers"):
        export_graph(graph, tmp_path / "scaled.onnx")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_parity_is_relative_to_the_outputs_size(tmp_path: Path, scale: float) -> None:
    graph = Graph(Scaled(scale), {"features": torch.randn(4, 3)}, ("logits",))
    parity = export_graph(graph, path := tmp_path / "scaled.onnx")
    assert parity.agreement == 1
    assert parity.decisions == 3 * (1 + 4 + 12)  # in each of three runs
    almost = replace(graph, module=Scaled(scale * (1 + 1e-5)), onnx=path.read_bytes())
    assert export_graph(almost, path).max_relative_diff == pytest.approx(1e-5, rel=0.1)
    with pytest.raises(ParityError, match="of the output's largest value"):
        export_graph(replace(almost, module=Scaled(scale * 1.001)), path)


def test_kernels_rounded_to_bytes_are_stored_as_bytes(tmp_path: Path, trained: Trained) -> None:
    net = round_to_bytes(nn.Conv2d(16, 32, 3)).eval()
    graph = Graph(net, {"x": torch.ones(2, 16, 5, 5)}, ("y",))
    export_graph(graph, path := tmp_path / "conv.onnx")
    assert path.stat().st_size < 1.3 * net.weight.numel()
    loaded = load_weights(nn.Conv2d(16, 32, 3), path.read_bytes())
    assert torch.equal(loaded.weight, net.weight)


def test_an_output_without_a_dimension_beside_the_batch_is_refused(tmp_path: Path, trained: Trained) -> None:
    flat = replace(trained.graphs["forward"], module=nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    with pytest.raises(ExportError, match="prediction has no dimension beside the batch"):
        write_version("linear", replace(trained, graphs={"forward": flat}), tmp_path, "test", 0, 0.0)
    assert not (tmp_path / "linear").exists()
