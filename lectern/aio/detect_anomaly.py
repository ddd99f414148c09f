"""Methods of `lectern.aio.Client` for DetectAnomalyService: images that look unlike the training data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from lectern.calls import AsyncCalls
from lectern.inputs import Files, read_files
from lectern.v1 import detect_anomaly_pb2 as pb


class DetectAnomalyMethods(AsyncCalls):
    """Methods of DetectAnomalyService."""

    async def detect_anomaly(
        self,
        images: Files,
        model: str = "",
        version: int = 0,
        *,
        false_positive_rate: float = 0,
        include_reconstruction: bool = False,
        include_heat_map: bool = False,
        timeout: float | None = None,
    ) -> pb.DetectAnomalyResponse:
        """Say which encoded images look unlike the training data, and where; `results` has one per image.

        Args:
            false_positive_rate: share of normal images that may be called anomalies, up to 0.5; 0 = 0.05.
            include_reconstruction: whether each result has the image as the model rebuilds it (PNG).
            include_heat_map: whether each result has a picture of where the image differs from that (PNG).
        """
        request = pb.DetectAnomalyRequest(
            model=model,
            version=version,
            images=await asyncio.to_thread(read_files, images),
            false_positive_rate=false_positive_rate,
            include_reconstruction=include_reconstruction,
            include_heat_map=include_heat_map,
        )
        return await self._call(request, pb.DetectAnomalyResponse, timeout)

    def stream_detect_anomaly(
        self,
        batches: Iterable[Files] | AsyncIterable[Files],
        model: str = "",
        version: int = 0,
        *,
        false_positive_rate: float = 0,
        include_reconstruction: bool = False,
        include_heat_map: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.StreamDetectAnomalyResponse]:
        """`detect_anomaly` for many images over one call, with `batches` as of `stream_classify_image`."""

        def build(images: Files) -> pb.StreamDetectAnomalyRequest:
            return pb.StreamDetectAnomalyRequest(
                model=model,
                version=version,
                images=read_files(images),
                false_positive_rate=false_positive_rate,
                include_reconstruction=include_reconstruction,
                include_heat_map=include_heat_map,
            )

        return self._pipeline(build, batches, pb.StreamDetectAnomalyRequest, pb.StreamDetectAnomalyResponse, timeout)
