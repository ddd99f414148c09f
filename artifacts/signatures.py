"""Signatures of releases by Ed25519, with keys as OpenSSL writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from artifacts.release import ReleaseError

_UNUSABLE = (ValueError, TypeError, UnsupportedAlgorithm)  # no PEM; with a password; an unknown kind


def signer(file: Path) -> Callable[[bytes], bytes]:
    """What signs a text with the private key in a file.

    Raises:
        ReleaseError: the file holds none.
    """
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise ReleaseError(f"{file} cannot be read: {error.strerror}") from error
    except _UNUSABLE:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ReleaseError(
            f"{file} is no private key of Ed25519 without a password: make one with "
            "`openssl genpkey -algorithm ed25519 -out release.key`"
        )
    return key.sign


def checker(file: Path) -> Callable[[bytes, bytes], bool]:
    """What says whether the owner of the public key in a file signed a text; the signature is the second argument.

    Raises:
        ReleaseError: the file holds none.
    """
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise ReleaseError(f"{file} cannot be read: {error.strerror}") from error
    except _UNUSABLE:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ReleaseError(
            f"{file} is no public key of Ed25519: make it of the private one with "
            "`openssl pkey -in release.key -pubout -out release.pub`"
        )

    def is_signed(text: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    return is_signed
