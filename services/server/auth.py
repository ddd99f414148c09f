"""Bearer tokens: the file of their hashes, with the client and the scopes of each."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

from services.errors import PermissionDenied, Unauthenticated
from services.limits import ClientLimits
from services.rpc import Call
from services.server.capabilities import CAPABILITIES
from services.server.quota import Allowance
from services.server.settings import StartError
from services.server.watched import Watched, read_file, warn_if_readable_by_all

log = logging.getLogger(__name__)

EVERYTHING = "*"
MODELS, INFERENCE, MODEL_CONTROL = "models", "inference", "model_control"
SCOPES = (*CAPABILITIES, MODELS, INFERENCE, MODEL_CONTROL, EVERYTHING)
ANY_TOKEN = ""  # the scope of RPCs that every valid token may call
PREFIX = "lectern_"  # by which scanners of source code recognise a leaked token
TOKEN_BYTES = 32


class Token(BaseModel):
    """A client's entry in the file, which has the SHA-256 of its token and never the token itself.

    A fast hash is enough, because nobody can guess 256 random bits; only passwords need a slow one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[str, ...], Field(min_length=1)]
    expires: AwareDatetime | None = None
    # None = the value of LECTERN_CLIENT_LIMITS__..., 0 = no limit.
    requests_per_second: NonNegativeFloat | None = None
    burst: NonNegativeInt | None = None
    concurrency: NonNegativeInt | None = None

    @field_validator("scopes")
    @classmethod
    def _known(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(scopes) - set(SCOPES)):
            raise ValueError(f"no scope is called {unknown[0]!r}; there are: {', '.join(SCOPES)}")
        return scopes


class TokenFile(BaseModel):
    """The document that LECTERN_TOKENS names, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[Token, ...] = ()

    @model_validator(mode="after")
    def _tokens_differ(self) -> TokenFile:
        names = [token.name for token in self.tokens]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tokens are called {repeated!r}")
        names_by_hash: dict[str, str] = {}
        for token in self.tokens:
            if (other := names_by_hash.setdefault(token.sha256, token.name)) != token.name:
                raise ValueError(f"{other!r} and {token.name!r} are the same token: remove one")
        return self

    @classmethod
    def read(cls, path: Path) -> TokenFile:
        """Read the file.

        Raises:
            StartError: it cannot be read, is not valid, or every user may write to it.
        """
        content = read_file(path, "LECTERN_TOKENS")
        if path.stat().st_mode & stat.S_IWOTH:
            raise StartError(f"LECTERN_TOKENS: every user may add a token to {path}: chmod o-w")
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise StartError(f"LECTERN_TOKENS: {path} is not valid: {where}: {first['msg']}") from None

    def write(self, path: Path) -> None:
        """Replace the file atomically, so that a server never reads half of it. Only its owner can read a new file.

        Raises:
            OSError: it cannot be written.
        """
        path = path.resolve()
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(self.model_dump_json(indent=2, exclude_none=True) + "\n")
            if path.exists():
                Path(temporary).chmod(stat.S_IMODE(path.stat().st_mode))
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def new_token() -> tuple[str, str]:
    """A new token and its SHA-256, which is stored."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return token, hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Client:
    """The client of a token.

    Args:
        expires: in `time.time()` seconds.
    """

    name: str
    scopes: frozenset[str]
    expires: float
    allowance: Allowance
    digest: bytes = field(repr=False)


class Tokens:
    """The clients of a file of tokens.

    Raises:
        StartError: the file is invalid.
    """

    def __init__(self, path: Path, defaults: ClientLimits) -> None:
        self._file = Watched([path], lambda: _read_clients(path, defaults))

    @property
    def clients(self) -> Sequence[Client]:
        return self._file.value

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        self._file.refresh()

    def authenticate(self, call: Call, scope: str) -> Client:
        """The client whose token the call carries.

        Raises:
            Unauthenticated: it carries no valid token; the message does not say which part is wrong.
            PermissionDenied: the token's scopes lack `scope`.
        """
        scheme, _, token = call.metadata.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        client: Client | None = None
        # Every entry is compared, each in constant time, so that the response time reveals nothing.
        for candidate in self._file.value:
            if hmac.compare_digest(candidate.digest, digest):
                client = candidate
        if client is None or scheme.lower() != "bearer":
            raise Unauthenticated("this server needs a valid bearer token")
        if time.time() >= client.expires:
            log.info("the token of %s has expired", client.name)
            raise Unauthenticated("this server needs a valid bearer token")
        call.client = client.name
        if scope != ANY_TOKEN and not client.scopes & {scope, EVERYTHING}:
            raise PermissionDenied(f"the token of {client.name} lacks the scope {scope!r}")
        return client


def _read_clients(path: Path, defaults: ClientLimits) -> Sequence[Client]:
    file = TokenFile.read(path)
    warn_if_readable_by_all(path, "the file of token hashes")
    return tuple(_client(token, defaults) for token in file.tokens)


def _client(token: Token, defaults: ClientLimits) -> Client:
    def chosen(own: float | None, default: float) -> float:
        return default if own is None else own

    allowance = Allowance(
        chosen(token.requests_per_second, defaults.requests_per_second),
        int(chosen(token.burst, defaults.burst)),
        int(chosen(token.concurrency, defaults.concurrency)),
    )
    expires = token.expires.timestamp() if token.expires else float("inf")
    return Client(token.name, frozenset(token.scopes), expires, allowance, bytes.fromhex(token.sha256))
