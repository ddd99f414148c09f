"""Methods of `lectern.aio.Client` for GenerateService: images and texts that a model makes, images that it redraws."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from lectern.calls import AsyncCalls
from lectern.inputs import File, read_files
from lectern.v1 import generate_pb2 as pb

DEFAULT_STEPS = 8
"""Images on the path between two seeds."""


class GenerateMethods(AsyncCalls):
    """Methods of GenerateService."""

    def generate_images(
        self,
        seed: int | None = None,
        count: int | None = None,
        *,
        to_seed: int | None = None,
        steps: int | None = None,
        truncation: float | None = None,
        label: str = "",
        contact_sheet: bool = False,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.GenerateImagesResponse]:
        """Generate images; yields a response with a PNG file as each is made.

        Args:
            seed: of the first image; image i has seed + i. None = the server draws one and returns it.
            count: independent images; None = one.
            to_seed: make a path from `seed` to this seed instead.
            steps: images on the path; None = 8.
            truncation: more than 0 and up to 1; less = more typical and less varied images. None = 1.
            label: what to draw, where the model has labels; empty = each in turn.
            contact_sheet: yield one response, with a PNG file of all images, instead of one for each.
        """
        layout = pb.IMAGE_LAYOUT_CONTACT_SHEET if contact_sheet else pb.IMAGE_LAYOUT_SINGLE
        request = pb.GenerateImagesRequest(
            model=model, version=version, seed=seed, truncation=truncation, label=label, layout=layout
        )
        if to_seed is not None:
            if count is not None:
                raise ValueError("count is of independent images, to_seed of a path between two: give one of them")
            steps = DEFAULT_STEPS if steps is None else steps
            request.interpolation.CopyFrom(pb.Interpolation(to_seed=to_seed, steps=steps))
        elif steps is not None:
            raise ValueError("steps is the number of images on a path: give to_seed, where the path ends")
        elif count is not None:
            request.count = count
        return self._stream(request, pb.GenerateImagesResponse, timeout)

    def generate_text(
        self,
        prompt: str = "",
        *,
        title: str = "",
        form: str = "",
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        max_tokens: int = 0,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.GenerateTextResponse]:
        """Generate a text; yields each addition to it as it is chosen.

        Args:
            prompt: the beginning of the text; it is not returned.
            title: what the text is about.
            form: one of the card's `labels`; empty = the model's choice.
            temperature: 0 = always the most probable token; None = 1.
            top_k: choose among this many most probable tokens; 0 = all.
            top_p: choose among the most probable tokens that together have this probability; None = all.
            repetition_penalty: 1 to 5; more = fewer repeated characters. None = 1.
            seed: the same seed and arguments give the same text; None = the server draws one and returns it.
            stop: texts that end the generation when one of them appears.
            max_tokens: 0 = until the text ends.
        """
        request = pb.GenerateTextRequest(
            model=model,
            version=version,
            prompt=prompt,
            title=title,
            form=form,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            max_tokens=max_tokens,
        )
        return self._stream(request, pb.GenerateTextResponse, timeout)

    async def transform_image(
        self, image: File, style: str, model: str = "", version: int = 0, *, timeout: float | None = None
    ) -> pb.TransformImageResponse:
        """Redraw an encoded image (PNG, JPEG or WebP, as bytes or a path) in another style; `image` is a PNG file."""
        (content,) = await asyncio.to_thread(read_files, image)
        request = pb.TransformImageRequest(model=model, version=version, image=content, style=style)
        return await self._call(request, pb.TransformImageResponse, timeout)
