import pytest
from pydantic import SecretStr

from orchestrator.access import Access
from tasks.sealing import new_key, seal, unseal
from tasks.transfer.errors import BadOption, JobUnreadable, SecretKeyMissing
from tasks.transfer.manifest import SourceRequest

SECRET = SourceRequest(url="https://h/x?sig=abc", headers={"Authorization": "Bearer t0ken"}, user="me:pass")


def test_what_is_sealed_shows_nothing_and_comes_back():
    key = SecretStr(new_key())
    sealed = seal(SECRET, key)
    assert not any(word in sealed for word in ("abc", "t0ken", "pass", "https"))
    assert unseal(sealed, key) == SECRET


def test_a_key_of_openssl_is_a_key():
    # openssl rand -base64 32 prints the standard alphabet.
    key = SecretStr("+/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
    assert unseal(seal(SECRET, key), key) == SECRET


def test_credentials_without_a_key_are_refused_with_the_way_to_make_one():
    with pytest.raises(SecretKeyMissing, match="openssl rand -base64 32"):
        seal(SECRET, None)


def test_a_bare_url_needs_no_key():
    bare = SourceRequest(url="https://h/x")
    assert unseal(seal(bare, None), None) == bare


@pytest.mark.parametrize("key", [None, SecretStr(new_key())])
def test_another_key_or_none_is_told(key):
    with pytest.raises(JobUnreadable, match="ORCHESTRATOR_SECRET_KEY"):
        unseal(seal(SECRET, SecretStr(new_key())), key)


def test_what_is_no_key_is_told_without_showing_it():
    with pytest.raises(BadOption) as caught:
        seal(SECRET, SecretStr("hunter2"))
    assert "hunter2" not in str(caught.value)


def test_a_request_does_not_show_its_secrets_where_somebody_logs_it():
    request = SourceRequest(url="https://h/x?sig=secret", headers={"X": "secret"}, user="me:secret")
    access = Access(headers={"X": "secret"}, user="me:secret", proxy="http://me:secret@proxy:3128")
    shown = f"{request} {request!r} {(request, access)}"
    assert "https://h/x" in shown
    assert "secret" not in shown
