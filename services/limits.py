"""Limits on requests and clients. Every limit is a setting (`LECTERN_LIMITS__...`); see docs/settings.md."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt


class Limits(BaseModel):
    """Limits on requests. Exceeding one is INVALID_ARGUMENT with the name of the field, or RESOURCE_EXHAUSTED for a
    limit that many requests share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message_bytes: PositiveInt = Field(32 * 2**20, description="Largest request or response message.")
    message_fields: PositiveInt = Field(
        100_000, description="Fields in one message of more than 64 KiB; each costs memory, however few its bytes."
    )
    calls: PositiveInt = Field(4096, description="Calls under way in one process; the next is RESOURCE_EXHAUSTED.")
    images: PositiveInt = Field(256, description="Images in one request.")
    image_bytes: PositiveInt = Field(16 * 2**20, description="Bytes of one encoded image.")
    image_pixels: PositiveInt = Field(50_000_000, description="Width times height of one image, before resizing.")
    audio_clips: PositiveInt = Field(64, description="Audio clips in one request.")
    audio_bytes: PositiveInt = Field(30 * 2**20, description="Bytes of one audio clip.")
    audio_seconds: PositiveInt = Field(300, description="Seconds of audio in one request, or message of a stream.")
    texts: PositiveInt = Field(256, description="Texts in one request.")
    text_bytes: PositiveInt = Field(128 * 1024, description="Bytes of one text, or of one context, as UTF-8.")
    text_windows: PositiveInt = Field(1024, description="Windows of tokens that the texts of one request fill.")
    answers: PositiveInt = Field(20, description="Answers to each question of one request.")
    neighbours: PositiveInt = Field(100, description="Words that are nearest to the texts of one request.")
    sentences: PositiveInt = Field(512, description="Sentences in one translation request.")
    story_sentences: PositiveInt = Field(512, description="Sentences of one story; its model may remember fewer.")
    beams: PositiveInt = Field(8, description="Beams of a search; a step's graph gives candidates for 8.")
    stop_texts: PositiveInt = Field(8, description="Texts that may end a generated one.")
    rows: PositiveInt = Field(4096, description="Rows of features in one request.")
    axis_length: PositiveInt = Field(
        1024,
        description="Length of a tensor's axis of variable length, other than the batch, if the card sets no limit.",
    )
    episodes: PositiveInt = Field(8, description="Episodes that one process plays at once.")
    episode_steps: PositiveInt = Field(1000, description="Steps of one episode.")
    generated_images: PositiveInt = Field(64, description="Images that one request may ask for.")
    few_shot_classes: PositiveInt = Field(50, description="Classes that the examples of one few-shot request show.")
    few_shot_examples: PositiveInt = Field(20, description="Examples of one class in a few-shot request.")
    few_shot_steps: PositiveInt = Field(20, description="Gradient steps that a few-shot request may ask for.")
    explanation_samples: PositiveInt = Field(1000, description="Samples, steps or windows of one explanation.")
    text_explanation_calls: PositiveInt = Field(
        44,
        description="Times that an explanation of a long text asks the model, unless the request says how many; more "
        "where its sentences are many, or the one that matters most is long.",
    )
    explained_tokens: PositiveInt = Field(512, description="Tokens of a text that is explained, and of its question.")
    explanations: PositiveInt = Field(16, description="Methods, classes or units that one request may ask about.")
    attack_steps: PositiveInt = Field(1000, description="Steps, or queries, of one attack on an image.")
    attack_draws: PositiveInt = Field(64, description="Draws of random defences for one gradient of an attack.")
    defences: PositiveInt = Field(8, description="Defences before a model in one request.")
    smoothing_samples: PositiveInt = Field(
        10_000, description="Noisy copies of an image that randomised smoothing classifies."
    )
    robustness_cells: PositiveInt = Field(128, description="Cells of the table of one evaluation of robustness.")
    stream_window: PositiveInt = Field(16, description="Requests of one stream that are worked on at once.")


class ClientLimits(BaseModel):
    """Limits on one client of one process. Exceeding one is RESOURCE_EXHAUSTED with RetryInfo.

    A client is identified by its token's name, or else by the subject of its certificate, or else by its address.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_second: NonNegativeFloat = Field(
        0, description="Requests, and messages of streams, of one client per second and worker; 0 = no limit."
    )
    burst: NonNegativeInt = Field(0, description="Requests that a client may send at once; 0 = a second's worth.")
    concurrency: NonNegativeInt = Field(0, description="RPCs of one client under way in a worker; 0 = no limit.")
    clients: PositiveInt = Field(10_000, description="Clients remembered; the one that was idle longest is forgotten.")
