"""TranslateService: texts in another language, or in another style of the same one."""

from __future__ import annotations

from lectern.v1 import translate_pb2 as pb
from services.capability import Capability, Pod

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.translate.servicer:TranslateServicer",
    default_models={
        **dict.fromkeys(("Translate", "StreamTranslate"), "translator_en_zh"),
        "Rewrite": "style_rewriter",
    },
    command='lectern translate "Where is the library?"',
    example=lambda _: pb.TranslateRequest(texts=["Where is the library?"]),
    pod=Pod(memory="256Mi", memory_limit="1Gi"),
)
