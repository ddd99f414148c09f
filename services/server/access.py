"""Who may call, what, and how much: the part of the chain that a server without tokens and client limits leaves out."""

from __future__ import annotations

from services.limits import ClientLimits
from services.rpc import Call
from services.server.auth import Tokens
from services.server.quota import Allowance, Lease, Quota
from services.server.settings import Settings


class Access:
    """Admits each RPC, or refuses it."""

    def __init__(self, tokens: Tokens | None, limits: ClientLimits) -> None:
        self._tokens = tokens
        self._quota = Quota(limits.clients)
        self._default = Allowance(limits.requests_per_second, limits.burst, limits.concurrency)

    @classmethod
    def of(cls, settings: Settings) -> Access | None:
        """As the settings say; None = everyone may call everything.

        Raises:
            StartError: the file of tokens is not as it should be.
        """
        limits = settings.client_limits
        tokens = Tokens(settings.tokens, limits) if settings.tokens else None
        limited = limits.requests_per_second or limits.concurrency
        return cls(tokens, limits) if tokens or limited else None

    def refresh(self) -> None:
        """Take up a changed file of tokens."""
        if self._tokens:
            self._tokens.refresh()

    def admit(self, call: Call, scope: str) -> Lease | None:
        """Let an RPC in; None = its client has no limits.

        Raises:
            Unauthenticated, PermissionDenied: see `Tokens.authenticate`. ResourceExhausted: the client asks too much.
        """
        if self._tokens:
            client = self._tokens.authenticate(call, scope)
            return self._quota.admit(client.name, client.allowance)
        return self._quota.admit(call.caller, self._default)
