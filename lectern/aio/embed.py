"""Methods of `lectern.aio.Client` for EmbedService: texts as vectors, and the words nearest to them."""

from __future__ import annotations

from lectern.calls import AsyncCalls
from lectern.inputs import Texts, as_list
from lectern.v1 import embed_pb2 as pb


class EmbedMethods(AsyncCalls):
    """Methods of EmbedService."""

    async def embed_text(
        self, texts: Texts, model: str = "", version: int = 0, *, timeout: float | None = None
    ) -> pb.EmbedTextResponse:
        """Turn one text or several into vectors of length 1; `results` has one per text.

        A text of which the model knows nothing has a vector of zeros, with a notice.
        """
        request = pb.EmbedTextRequest(model=model, version=version, texts=as_list(texts))
        return await self._call(request, pb.EmbedTextResponse, timeout)

    async def nearest(
        self,
        positive: Texts,
        negative: Texts = (),
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> pb.NearestResponse:
        """Find the words that are nearest to a sum of vectors; `words` has the nearest first.

        Args:
            positive: texts whose vectors are added; their own words are no answers.
            negative: texts whose vectors are subtracted, such as "man" of king - man + woman; nor are theirs.
            top_k: how many words; 0 = 10.
        """
        request = pb.NearestRequest(
            model=model, version=version, positive=as_list(positive), negative=as_list(negative), top_k=top_k
        )
        return await self._call(request, pb.NearestResponse, timeout)
