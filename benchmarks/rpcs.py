"""Every RPC of a server of the committed models; writes docs/benchmarks/rpcs.md."""

from __future__ import annotations

import sys
import urllib.request
from collections import defaultdict
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import Measurement, measure
from benchmarks.options import EXPORTED, ROOT, Options, written_by
from benchmarks.servers import Contestant, Running, running
from lectern.cli.rows import read_table
from lectern.requests import attack_method, defence, explained_input
from lectern.requests import explain as explain_request
from lectern.v1 import (
    act_pb2,
    answer_pb2,
    classify_pb2,
    defend_pb2,
    detect_anomaly_pb2,
    explain_pb2,
    generate_pb2,
    predict_pb2,
    translate_pb2,
)
from lectern.versions import read_card
from services.server.registry import SERVICERS, service_of

EXAMPLES = ROOT / "docs" / "examples"
SECONDS = 3
CALLERS = 8
EPISODE_STEPS = 50
TEXT = "The chairs were hard, but what a wonderful film!"
ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Row:
    """A request that is sent again and again, and what to call it beyond its RPC's name."""

    request: Message
    detail: str = ""


def rows() -> list[Row]:
    """Requests as the README shows them."""
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
        Row(answer_pb2.AnswerRequest(context=story, questions=["Who commanded the ship?"])),
        Row(audio(clips=clips[:1]), "5.5 s of speech"),
        Row(audio(clips=clips[1:2], model="speaker_classifier"), "speaker_classifier, 1.5 s"),
        Row(classify_pb2.VerifySpeakerRequest(first=clips[1], second=clips[2])),
        Row(predict_pb2.PredictRequest(rows=[predict_pb2.FeatureRow(features=survey)])),
        Row(defend_pb2.DefendRequest(images=[photo]), "detector alone"),
        Row(defend_pb2.DefendRequest(images=[photo], defences=[defence("jpeg"), defence("median")]), "JPEG, median"),
        Row(defend_pb2.DefendRequest(images=[photo], smoothing={"samples": 100}), "certified by 100 copies"),
        Row(defend_pb2.AttackRequest(images=[photo], method=attack_method("fgsm")), "FGSM"),
        Row(defend_pb2.AttackRequest(images=[photo], method=attack_method("pgd")), "PGD of 10 steps"),
        Row(detect_anomaly_pb2.DetectAnomalyRequest(images=[boot])),
        Row(detect_anomaly_pb2.DetectAnomalyRequest(images=[boot], include_heat_map=True), "with heat map"),
        Row(detect_anomaly_pb2.StreamDetectAnomalyRequest(images=[boot])),
        Row(explain_request(explained_input(photo), "saliency"), "saliency"),
        Row(explain_request(explained_input(photo), "grad_cam"), "Grad-CAM"),
        Row(explain_request(explained_input(photo), "smooth_grad"), "SmoothGrad"),
        Row(explain_request(explained_input(photo), "integrated_gradients"), "integrated gradients"),
        Row(explain_request(explained_input(row=survey), "saliency"), "saliency of a row"),
        Row(explain_request(explained_input(text=TEXT), "occlusion"), "occlusion of a text's 11 words"),
        Row(
            explain_request(explained_input(audio=clips[1].encoded), "integrated_gradients"),
            "integrated gradients of 1.5 s of speech",
        ),
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


def run(options: Options) -> None:
    """Ask every RPC, measure each at eight callers, and write the report; in brief, measure the first."""
    seconds = options.seconds_or(SECONDS)
    models = [path.parent.name for path in sorted(EXPORTED.glob("*/config.pbtxt"))]
    lines = []
    # Each caller may play an episode.
    settings = {"LECTERN_LIMITS__EPISODES": "8", "LECTERN_ALLOW_ATTACKS": "true"}
    with running(Contestant("Lectern", "lectern"), EXPORTED, models, **settings) as server:
        for row in rows():
            service, name = rpc_of(row.request)
            title = f"`{service.rpartition('.')[2]}.{name}`" + (f", {row.detail}" if row.detail else "")
            print(title, file=sys.stderr)
            ask(server, f"/{service}/{name}", row.request)
            if options.brief and lines:
                continue
            result = measure_good(server, f"/{service}/{name}", row.request, seconds)
            figures = (f"{result.rate:,.0f}", f"{result.p50:.1f}", f"{result.p99:.1f}", f"{result.cpu:.2f}")
            lines.append(f"| {title} | {' | '.join(figures)} |")
    options.write("rpcs.md", report(lines, seconds))


def rpc_of(request: Message) -> tuple[str, str]:
    """Full name of the service, and the RPC that takes such a request."""
    for capability in SERVICERS:
        service = service_of(capability)
        for method in service.methods:
            if GetMessageClass(method.input_type) is type(request):
                return service.full_name, method.name
    raise LookupError(f"no RPC takes a {type(request).__name__}")


def ask(server: Running, method: str, request: Message) -> None:
    """Send the request once, as a unary call or a stream.

    Raises:
        RuntimeError: it was not answered with OK and something.
    """
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_stream(method, request_serializer=type(request).SerializeToString)
        try:
            answered = any(list(call(request, timeout=ANSWER_SECONDS)))
        except grpc.RpcError as error:
            raise RuntimeError(f"{method}: {error.code().name}, {error.details()}") from error
    if not answered:
        raise RuntimeError(f"{method}: the answer is empty")


def measure_good(server: Running, method: str, request: Message, seconds: float) -> Measurement:
    """Measure, and see by the server's own count that every answer was OK.

    Raises:
        RuntimeError: one was not.
    """
    before = failures(server)
    result = measure(server.target, method, request, server.pid, CALLERS, seconds)
    if (after := failures(server)) != before:
        raise RuntimeError(f"{method} was not always answered: {after} failures since the start, {before} before")
    return result


def failures(server: Running) -> dict[str, float]:
    """How often each status code other than OK was answered so far."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:  # noqa: S310 - our own server's
        families = list(text_string_to_metric_families(response.read().decode()))
    counts: dict[str, float] = defaultdict(float)
    for sample in (s for family in families for s in family.samples if s.name == "grpc_server_handled_total"):
        if sample.labels["grpc_code"] != "OK":
            counts[sample.labels["grpc_code"]] += sample.value
    return counts


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
            "| RPC | requests/s | p50 ms | p99 ms | CPU s per 1,000 |",
            "| --- | --- | --- | --- | --- |",
            *lines,
            "",
        ]
    )
