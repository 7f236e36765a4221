import json

import pytest

from tasks.transfer import errors
from tasks.transfer.errors import Side, TransferError, redact, side_of


def leaves(error=TransferError):
    below = error.__subclasses__()
    return [error] if not below else [leaf for each in below for leaf in leaves(each)]


EXAMPLES = {
    "OriginUnreachable": ("http://h/x", "refused"),
    "OriginBusy": ("http://h/x", 503, 2.0),
    "ResponseTruncated": ("http://h/x", 10, 4),
    "TooSlow": (10, 30.0),
    "ManifestStale": ("3f9a1c27d0b4", 2, None),
    "SourceChanged": ("http://h/x", "v1", "v2"),
    "RangesRefused": ("http://h/x", 200),
    "SourceRefused": ("http://h/x", 404, "Not Found"),
    "BadResponse": ("http://h/x", "a reason"),
    "ProxyRefused": ("http://h/x", "407"),
    "BadCertificate": ("http://h/x", "self-signed"),
    "RedirectRefused": ("http://h/x", "a reason"),
    "NoProgress": (8, "last words."),
    "WorkersDied": ("3f9a1c27d0b4", "bytes 0 to 9 of http://h/x", 5),
    "TooLarge": ("http://h/x", 10, 5),
    "DigestMismatch": ("x.iso", "SHA-256", "aa", "bb"),
    "VolumeFull": ("/v", 10, 5),
    "VolumeFailed": ("/v", "Input/output error"),
    "FileUnreadable": ("/v/x", "Input/output error"),
    "DestinationBusy": ("/v/x", "3f9a1c27d0b4"),
    "SentInVain": ("3f9a1c27d0b4", 8, 5),
}


@pytest.mark.parametrize("error", [each for each in leaves() if each.__module__.startswith(errors.__name__)])
def test_an_error_survives_the_queue_and_says_a_sentence(error):
    one = error(*EXAMPLES.get(error.__name__, ("something",)))
    # Celery rebuilds errors as cls(*args) from JSON.
    again = error(*json.loads(json.dumps(one.args)))
    assert str(again) == str(one)
    assert len(str(one)) > 8
    assert side_of(one.code) is one.side


def test_a_code_that_this_version_does_not_know_is_nobodys_fault_but_ours():
    assert side_of("FromTheFuture") is Side.BUG


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("/v", 10, 5), "The volume /v is full: 10 bytes are needed, 5 are free. Make space, "),
        # A thin disk: to say how much is free and no more would read as if there were room.
        (("/v", 10, 500), "The volume /v is full: it refused a write, though it counts 500 bytes as free. "),
        (
            ("/v", 10, 500, "Disk quota exceeded"),
            "The volume /v takes no more: disk quota exceeded. Raise the ",
        ),
    ],
)
def test_a_full_volume_says_what_it_is_full_by_its_own_count_or_by_a_limit(args, said):
    assert str(errors.VolumeFull(*args)).startswith(said)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@h:8443/a/b.iso?sig=abc#x", "https://h:8443/a/b.iso"),
        ("http://h/b.iso", "http://h/b.iso"),
    ],
)
def test_a_url_is_shown_without_user_and_query(url, shown):
    assert redact(url) == shown
