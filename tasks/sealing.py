"""Sealing: requests with URLs, headers and passwords are stored encrypted where there is a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.transfer.errors import BadOption, JobUnreadable, SecretKeyMissing
from tasks.transfer.manifest import SourceRequest

if TYPE_CHECKING:
    from cryptography.fernet import Fernet
    from pydantic import SecretStr

_PLAIN = "plain:"
_FERNET = "fernet:"
_HOW_TO_MAKE_A_KEY = "Make one with `openssl rand -base64 32` and give it to submitters and workers alike."


def seal(request: SourceRequest, key: SecretStr | None) -> str:
    """The request as it may rest in Redis and on the volume.

    Without a key a bare URL rests readable to those who may read Redis or the job's folder; credentials are refused.

    Raises:
        SecretKeyMissing: it carries credentials and `key` is None.
        BadOption: `key` is not a key.
    """
    if key is not None:
        return _FERNET + _fernet(key).encrypt(request.model_dump_json().encode()).decode()
    if request.has_credentials:
        raise SecretKeyMissing(
            "Credentials and headers are stored sealed, and ORCHESTRATOR_SECRET_KEY is not set. "
            + _HOW_TO_MAKE_A_KEY
        )
    return _PLAIN + request.model_dump_json()


def unseal(sealed: str, key: SecretStr | None) -> SourceRequest:
    """Read back what `seal` returned.

    Raises:
        JobUnreadable: it was sealed with another key, or there is no key here.
    """
    from cryptography.fernet import InvalidToken

    try:
        if sealed.startswith(_PLAIN):
            return SourceRequest.model_validate_json(sealed[len(_PLAIN) :])
        if key is None:
            raise JobUnreadable(
                "The job is sealed and this worker has no ORCHESTRATOR_SECRET_KEY. Give it the submitter's key."
            )
        return SourceRequest.model_validate_json(_fernet(key).decrypt(sealed[len(_FERNET) :]))
    except (InvalidToken, ValidationError):
        raise JobUnreadable(
            "The job was sealed with another ORCHESTRATOR_SECRET_KEY than this worker's. Give both the same key."
        ) from None


def new_key() -> str:
    """A new key."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def _fernet(key: SecretStr) -> Fernet:
    from cryptography.fernet import Fernet  # 40 ms that only jobs with a key pay

    try:
        # openssl prints the standard alphabet, Fernet wants the URL-safe one.
        return Fernet(key.get_secret_value().strip().translate(str.maketrans("+/", "-_")))
    except ValueError:
        raise BadOption("ORCHESTRATOR_SECRET_KEY is not 32 bytes in base64. " + _HOW_TO_MAKE_A_KEY) from None
