"""ClassifyService: classes of images, recordings and texts."""

from __future__ import annotations

from lectern.v1 import classify_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.classify.servicer:ClassifyServicer",
    default_models={
        "ClassifyImage": "image_classifier",
        "StreamClassifyImage": "image_classifier",
        "ClassifyAudio": "phoneme_classifier",
        "StreamClassifyAudio": "phoneme_classifier",
        "ClassifyText": "sentiment_classifier",
        "ClassifyPair": "entailment_classifier",
        "ClassifyFewShot": "few_shot_classifier",
        "VerifySpeaker": "speaker_classifier",
    },
    command="lectern classify photo.png",
    example=lambda files: pb.ClassifyImageRequest(images=[(files / "cat.png").read_bytes()]),
    pod=Pod(memory="768Mi", memory_limit="2Gi"),
)
