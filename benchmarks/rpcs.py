"""Every RPC of a server of the committed models; writes docs/benchmarks/rpcs.md."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from prometheus_client.samples import Sample

from artifacts.versions import read_card
from benchmarks.load import Measurement, grpc_call, measure
from benchmarks.options import EXPORTED, ROOT, Options, written_by
from benchmarks.servers import Contestant, Running, running, samples
from lectern.cli.rows import read_table
from lectern.inputs import explained_input
from lectern.methods import ExplanationMethod, attack_method, defence, explanation_method
from lectern.v1 import (
    act_pb2,
    answer_pb2,
    classify_pb2,
    defend_pb2,
    detect_anomaly_pb2,
    embed_pb2,
    explain_pb2,
    generate_pb2,
    predict_pb2,
    tag_pb2,
    translate_pb2,
)
from services.server.capabilities import CAPABILITIES

EXAMPLES = ROOT / "docs" / "examples"
SECONDS = 3
CALLERS = 8
EPISODE_STEPS = 50
AIM_MILLISECONDS = 20
TEXT = "The chairs were hard, but what a wonderful film!"
ANSWER_SECONDS = 120


@dataclass(frozen=True)
class Row:
    """A request that is sent again and again, and what to call it beyond its RPC's name."""

    request: Message
    detail: str = ""


def rows() -> list[Row]:
    """A call that computes nothing; requests as docs/tour.md shows them; the example of a capability that has none
    here."""
    listed = requests()
    services = {rpc_of(row.request)[0] for row in listed}
    missing = (c for c in CAPABILITIES.values() if c.service.full_name not in services)
    nothing = Row(health_pb2.HealthCheckRequest(), "what any call costs")
    return [nothing, *listed, *(Row(capability.example(EXAMPLES)) for capability in missing)]


def requests() -> list[Row]:
    """Requests as docs/tour.md shows them."""
    photo, boot, digit = (EXAMPLES.joinpath(f"{name}.png").read_bytes() for name in ("ship", "boot", "digit"))
    support = [
        classify_pb2.LabelledImage(label=path.parent.name, image=path.read_bytes())
        for path in sorted((EXAMPLES / "characters").glob("*/*.png"))
    ]
    character = (EXAMPLES / "character.png").read_bytes()
    story = (EXAMPLES / "beagle.txt").read_text()
    observation = act_pb2.Observation(features=[0, 1.4, 0.3, -0.5, -0.1, 0.05, 0, 0])
    features = read_card(EXPORTED / "covid_regressor").preprocessing.features
    survey = read_table(EXAMPLES / "survey.csv", features)[0]
    known = [predict_pb2.LabelledRow(features=[i, i % 7, i % 11], label=f"{i % 3}") for i in range(100)]
    asked = predict_pb2.FeatureRow(features=[50, 3, 5])
    clips = [
        classify_pb2.AudioClip(encoded=EXAMPLES.joinpath(f"{name}.wav").read_bytes())
        for name in ("sentence", "armelle_1", "armelle_2")
    ]
    image, audio = classify_pb2.ClassifyImageRequest, classify_pb2.ClassifyAudioRequest
    maml = classify_pb2.FEW_SHOT_METHOD_MAML
    sheet = generate_pb2.IMAGE_LAYOUT_CONTACT_SHEET
    return [
        Row(image(images=[photo])),
        Row(image(images=[photo] * 16), "16 images"),
        Row(image(images=[photo], model="compact_classifier", version=3), "compact_classifier, float32"),
        Row(image(images=[photo], model="compact_classifier", version=4), "compact_classifier, int8"),
        Row(image(images=[photo], model="drawing_classifier"), "drawing_classifier"),
        Row(image(images=[digit], model="lifelong_classifier"), "lifelong_classifier"),
        Row(classify_pb2.StreamClassifyImageRequest(images=[photo])),
        Row(classify_pb2.ClassifyFewShotRequest(support=support, queries=[character])),
        Row(classify_pb2.ClassifyFewShotRequest(support=support, queries=[character], method=maml), "MAML"),
        Row(classify_pb2.ClassifyTextRequest(texts=["What a lovely film!"])),
        Row(embed_pb2.EmbedTextRequest(texts=["The ship came home after five years."])),
        Row(embed_pb2.NearestRequest(positive=["king", "woman"], negative=["man"])),
        Row(tag_pb2.TagTextRequest(texts=["book a table for four tomorrow"])),
        Row(translate_pb2.RewriteRequest(texts=["I will go unto thee."], style=translate_pb2.STYLE_MODERN)),
        Row(answer_pb2.AnswerRequest(context=story, questions=["Who commanded the ship?"])),
        Row(answer_pb2.AnswerStoryRequest(sentences=["Mary went to the garden."] * 8, question="Where is Mary?")),
        Row(audio(clips=clips[:1]), "5.5 s of speech"),
        Row(audio(clips=clips[1:2], model="speaker_classifier"), "speaker_classifier, 1.5 s"),
        Row(classify_pb2.VerifySpeakerRequest(first=clips[1], second=clips[2])),
        Row(predict_pb2.PredictRequest(rows=[predict_pb2.FeatureRow(features=survey)])),
        Row(predict_pb2.PredictFromExamplesRequest(examples=known, queries=[asked]), "from 100 examples"),
        Row(defend_pb2.DefendRequest(images=[photo]), "detector alone"),
        Row(defend_pb2.DefendRequest(images=[photo], defences=[defence("jpeg"), defence("median")]), "JPEG, median"),
        Row(defend_pb2.DefendRequest(images=[photo], smoothing={"samples": 100}), "certified by 100 copies"),
        Row(defend_pb2.AttackRequest(images=[photo], method=attack_method("fgsm")), "FGSM"),
        Row(defend_pb2.AttackRequest(images=[photo], method=attack_method("pgd")), "PGD of 10 steps"),
        Row(detect_anomaly_pb2.DetectAnomalyRequest(images=[boot])),
        Row(detect_anomaly_pb2.DetectAnomalyRequest(images=[boot], include_heat_map=True), "with heat map"),
        Row(detect_anomaly_pb2.StreamDetectAnomalyRequest(images=[boot])),
        Row(explain("saliency", image=photo), "saliency"),
        Row(explain("grad_cam", image=photo), "Grad-CAM"),
        Row(explain("smooth_grad", image=photo), "SmoothGrad"),
        Row(explain("integrated_gradients", image=photo), "integrated gradients"),
        Row(explain("saliency", row=survey), "saliency of a row"),
        Row(explain("occlusion", text=TEXT), "occlusion of a text's 11 words"),
        Row(explain("integrated_gradients", audio=clips[1].encoded), "integrated gradients of 1.5 s of speech"),
        Row(explain_pb2.ExplainModelRequest(probes=explain_pb2.Probes()), "probes"),
        Row(generate_pb2.GenerateImagesRequest(seed=7)),
        Row(generate_pb2.GenerateImagesRequest(seed=7, count=16, layout=sheet), "a sheet of 16"),
        Row(generate_pb2.GenerateImagesRequest(seed=7, model="garment_generator"), "garment_generator"),
        Row(generate_pb2.TransformImageRequest(image=digit, style="printed")),
        Row(generate_pb2.GenerateTextRequest(form="五言絕句", seed=7), "a poem of 20 characters"),
        Row(translate_pb2.TranslateRequest(texts=["Where is the library?"]), "4 beams"),
        Row(translate_pb2.TranslateRequest(texts=["Where is the library?"], beam_size=1), "greedy"),
        Row(translate_pb2.StreamTranslateRequest(text="Where is the library?")),
        Row(act_pb2.ActRequest(observations=[observation])),
        Row(act_pb2.RunEpisodeRequest(seed=7, max_steps=EPISODE_STEPS), f"{EPISODE_STEPS} steps"),
    ]


def explain(method: ExplanationMethod, **explained: Any) -> explain_pb2.ExplainRequest:
    """A request to explain one input, with arguments as of `explained_input`."""
    return explain_pb2.ExplainRequest(input=explained_input(**explained), method=explanation_method(method))


def run(options: Options) -> None:
    """Ask every RPC, measure each at eight callers, and write the report; in brief, measure the first."""
    seconds = options.seconds_or(SECONDS)
    models = [path.parent.name for path in sorted(EXPORTED.glob("*/config.pbtxt"))]
    lines = []
    # Each caller may play an episode; all are one client, which gets half of the places.
    settings = {"LECTERN_LIMITS__EPISODES": str(2 * CALLERS), "LECTERN_ALLOW_ATTACKS": "true"}
    with running(Contestant("Lectern", "lectern"), EXPORTED, models, **settings) as server:
        for row in rows():
            service, name = rpc_of(row.request)
            title = f"`{service.rpartition('.')[2]}.{name}`" + (f", {row.detail}" if row.detail else "")
            print(title, end=" ", file=sys.stderr, flush=True)
            ask(server.target, f"/{service}/{name}", row.request)
            if options.brief and lines:
                continue
            result, work, lag = measure_good(server, f"/{service}/{name}", row.request, seconds)
            _, alone, _ = measure_good(server, f"/{service}/{name}", row.request, seconds / 2, callers=1)
            least = min(work.graphs, alone.graphs), min(work.codec, alone.codec)
            figures = (
                *(f"{result.rate:,.0f}", *(f"{ms:.1f}" for ms in (result.p50, result.p95, result.p99))),
                *(f"{seconds:.2f}" for seconds in (result.cpu, *least)),
                f"{result.cpu / sum(least):.2f}" if any(least) else "-",
                f"{work.rows / work.runs:.1f}" if work.runs else "-",
                *(f"{1000 * lag.at_most(share):g}" for share in (0.99, 1)),
            )
            print(*figures, file=sys.stderr)
            lines.append(f"| {title} | {' | '.join(figures)} |")
    options.write("rpcs.md", report(lines, seconds))


def rpc_of(request: Message) -> tuple[str, str]:
    """Full name of the service, and the RPC that takes such a request."""
    for capability in CAPABILITIES.values():
        if rpc := capability.rpc_of(request):
            return capability.service.full_name, rpc
    if isinstance(request, health_pb2.HealthCheckRequest):
        return "grpc.health.v1.Health", "Check"
    raise LookupError(f"no RPC takes a {type(request).__name__}")


def ask(target: str, method: str, request: Message) -> None:
    """Send the request once, as a unary call or a stream.

    Raises:
        RuntimeError: it was not answered with OK and something.
    """
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_stream(method, request_serializer=type(request).SerializeToString)
        try:
            answered = any(list(call(request, timeout=ANSWER_SECONDS)))
        except grpc.RpcError as error:
            raise RuntimeError(f"{method}: {error.code().name}, {error.details()}") from error
    if not answered:
        raise RuntimeError(f"{method}: the answer is empty")


@dataclass(frozen=True)
class Lag:
    """How late the server's event loop was for timers that came evenly: how many were late by at most each bound, in
    seconds."""

    counts: dict[float, float]

    def since(self, before: Lag) -> Lag:
        """Of the timers after those."""
        return Lag({bound: count - before.counts[bound] for bound, count in self.counts.items()})

    def at_most(self, share: float) -> float:
        """The least bound, in seconds, that this share of the timers kept."""
        return next(bound for bound, count in sorted(self.counts.items()) if count >= share * self.counts[math.inf])


@dataclass(frozen=True)
class Work:
    """What requests cannot do without: seconds per 1,000 in runs of graphs, and in decoding inputs; runs of one
    request, and rows in them. The clock's seconds, which are more than the CPU's where threads wait for a core."""

    graphs: float
    codec: float
    runs: float
    rows: float

    @classmethod
    def between(cls, before: Sequence[Sample], after: Sequence[Sample]) -> Work:
        """Of the requests that the server answered between both."""

        def more(name: str) -> float:
            return sum(s.value for s in after if s.name == name) - sum(s.value for s in before if s.name == name)

        requests = more("grpc_server_handled_total")
        return cls(
            1000 * more("lectern_inference_seconds_sum") / requests,
            1000 * more("lectern_codec_seconds_sum") / requests,
            more("lectern_batch_size_count") / requests,
            more("lectern_batch_size_sum") / requests,
        )


def measure_good(
    server: Running, method: str, request: Message, seconds: float, callers: int = CALLERS
) -> tuple[Measurement, Work, Lag]:
    """Measure, also what was computed and the loop's lag meanwhile, and see by the server's own count that every answer
    was OK.

    Raises:
        RuntimeError: one was not.
    """
    before = samples(server)
    result = measure(server.target, grpc_call(method, request), server.pid, callers, seconds)
    after = samples(server)
    failed, old = failures(after), failures(before)
    if failed != old:
        raise RuntimeError(f"{method} was not always answered: {failed} failures since the start, {old} before")
    return result, Work.between(before, after), lag_of(after).since(lag_of(before))


def failures(samples: Iterable[Sample]) -> dict[str, float]:
    """How often each status code other than OK was answered so far."""
    counts: dict[str, float] = defaultdict(float)
    for sample in samples:
        if sample.name == "grpc_server_handled_total" and sample.labels["grpc_code"] != "OK":
            counts[sample.labels["grpc_code"]] += sample.value
    return counts


def lag_of(samples: Iterable[Sample]) -> Lag:
    """The lag of the event loop so far."""
    return Lag({float(s.labels["le"]): s.value for s in samples if s.name == "lectern_loop_lag_seconds_bucket"})


def report(lines: list[str], seconds: float) -> str:
    """Markdown: a row for each request."""
    return "\n".join(
        [
            "# Every RPC",
            "",
            f"{written_by()}: the committed models in one process, {CALLERS} callers on the same cores by h2load, "
            f"{seconds:g} s each. "
            "Images come as PNG files, and pictures go as such. Every answer was OK by the server's own count.",
            "",
            "CPU s per 1,000 are all of the server's. Beside them stands what it cannot do without: runs of graphs "
            "and decoding. Both are by the clock, which also counts while a thread waits for a core or its turn, so "
            f"they are the lower of one caller's and {CALLERS} callers'. Rows a run are items in one batch.",
            "",
            "The first row is what any call costs: HTTP/2, an event for Python, and an answer. Above 1.3 the rest is "
            "that; changes of threads, which outweigh a graph of less than 0.1 ms (Predict, DetectAnomaly); pictures "
            "that are drawn and compressed (Explain); or copies of an image by JPEG and median filter (Defend).",
            "",
            "The last columns say how late the server's event loop was meanwhile for a timer of 10 ms: at most so many "
            "milliseconds for 99 of 100 timers, and for all. So long any other call waits beside this one. The aim is "
            f"{AIM_MILLISECONDS} ms.",
            "",
            "| RPC | requests/s | p50 ms | p95 ms | p99 ms | CPU s per 1,000 | graphs | decoding | CPU / both "
            "| rows a run | lag p99 ms | lag longest ms |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *lines,
            "",
        ]
    )
