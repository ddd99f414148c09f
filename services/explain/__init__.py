"""ExplainService: why models answer as they do."""

from __future__ import annotations

from lectern.v1 import explain_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.explain.servicer:ExplainServicer",
    default_models={
        "ExplainModel": "image_classifier",
        "image": "image_classifier",
        "row": "covid_regressor",
        "text": "sentiment_classifier",
        "question": "question_answerer",
        "audio": "phoneme_classifier",
    },
    answers_from=("answer", "classify", "defend", "detect_anomaly", "predict"),
    borrows_from=("generate",),  # whose images may be searched for the one that excites a class most
    numeric=True,
    command="lectern explain photo.png --out why.png",
    example=lambda files: pb.ExplainRequest(
        input=pb.ExplainedInput(image=(files / "cat.png").read_bytes()),
        method=pb.ExplanationMethod(saliency=pb.Saliency()),
    ),
    pod=Pod(memory="768Mi", memory_limit="2Gi"),
)
