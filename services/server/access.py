"""Admission of RPCs by token and client limits; a server without both skips it."""

from __future__ import annotations

from collections.abc import Sequence

from services.limits import ClientLimits
from services.rpc import Call
from services.server.auth import Client, Tokens
from services.server.quota import Allowance, Lease, Quota, UsageCounter
from services.server.settings import Settings


class Access:
    """Admits each RPC, or refuses it."""

    def __init__(self, tokens: Tokens | None, limits: ClientLimits) -> None:
        self._tokens = tokens
        self.quota: UsageCounter = Quota(limits.clients)
        self.default = Allowance(limits.requests_per_second, limits.burst, limits.concurrency)

    @classmethod
    def of(cls, settings: Settings) -> Access | None:
        """The admission control that the settings ask for; None = everyone may call everything.

        Raises:
            StartError: the file of tokens is invalid.
        """
        limits = settings.client_limits
        tokens = Tokens(settings.tokens, limits) if settings.tokens else None
        limited = limits.requests_per_second or limits.concurrency
        return cls(tokens, limits) if tokens or limited else None

    @property
    def clients(self) -> Sequence[Client] | None:
        """The clients that have a token; None = no call needs one."""
        return self._tokens.clients if self._tokens else None

    def refresh(self) -> None:
        """Read the file of tokens again if it has changed."""
        if self._tokens:
            self._tokens.refresh()

    def admit(self, call: Call, scope: str) -> Lease | None:
        """Admit an RPC; None = its client has no limits.

        Raises:
            Unauthenticated, PermissionDenied: see `Tokens.authenticate`. ResourceExhausted: a client limit is exceeded.
        """
        if self._tokens:
            client = self._tokens.authenticate(call, scope)
            return self.quota.admit(client.name, client.allowance)
        return self.quota.admit(call.caller, self.default)
