"""Lists of checksums, in the forms that sites have them in."""

from __future__ import annotations

import pytest

from orchestrator.checksums import choose, given, names_of, read_list
from tasks.transfer.errors import BadOption

A, B, C = "a" * 64, "b" * 64, "c" * 64
ALL = {"sha-256": A}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{B}  other.iso\n{A}  big.iso\n", ALL),
        (f"{A} *big.iso", ALL),  # read in binary mode
        (f"{A}  ./big.iso", ALL),
        (f"{A.upper()}  big.iso\r\n", ALL),
        (f"{B}  old/big.iso\n{A}  images/big.iso", ALL),  # the one whose folder is the URL's
        (f"{A}  elsewhere/big.iso", ALL),  # a list of another folder, by the last name
        (f"{B}  not-big.iso\n{A}  big.iso", ALL),  # an ending of a name is not that name
        (f"SHA256 (big.iso) = {A}\nSHA256 (other) = {B}", ALL),
        (f"SHA2-256(big.iso)= {A}", ALL),  # openssl dgst
        (f"MD5 (big.iso) = {'1' * 32}\nSHA256 (big.iso) = {A}", {"md5": "1" * 32, "sha-256": A}),
        (f"{'1' * 128}  big.iso", {"sha-512": "1" * 128}),
        (f"{'1' * 40}  big.iso", {"sha-1": "1" * 40}),
        (f"{'1' * 32}  big.iso", {"md5": "1" * 32}),
        (f"{A}\n", ALL),  # big.iso.sha256, with nothing but the digest
        (f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# big.iso: 4 bytes\n{A}  big.iso", ALL),
        (f"{A}  big.iso\n{A}  big.iso", ALL),
        (f"{B}  big.iso.sig\n{A}  big.iso", ALL),
        (f"\ufeff{A}  big.iso\r\n", ALL),  # from a Windows editor
    ],
)
def test_the_files_entry_is_found(text, found):
    assert choose(text, names_of("https://h/images/big.iso?sig=1", None), source="SUMS") == found


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"\\{A}  a\\\\n\\nb", "a\\n\nb"),
        (f"\\SHA256 (a\\\\b) = {A}", "a\\b"),
        (f"{A}  a\\nb", "a\\nb"),  # no escape: the line does not begin with a backslash
    ],
)
def test_names_with_a_backslash_or_a_lines_end_are_written_as_coreutils_does(line, name):
    assert choose(f"{B}  other\n{line}\n", [name], source="SUMS") == ALL


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_list_is_read_whatever_windows_wrote_it_in(tmp_path, encoding):
    begin = "\ufeff" if encoding == "utf-16-be" else ""
    path = tmp_path / "SUMS"
    path.write_bytes(f"{begin}{A}  b\xfcg.iso\r\n{B}  other\r\n".encode(encoding))
    assert read_list(path).choose(["b\xfcg.iso"]) == ALL


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{B}  other.iso",
        f"{A}  Big.iso",  # names are compared as they are
        "e3069283  big.iso",  # eight digits are no CRC32C: nobody knows which CRC they are
        f"{'1' * 96}  big.iso",  # SHA-384
        f"SHA384 (big.iso) = {'1' * 96}",
        f"MD5 (big.iso) = {A}",  # a digest of another length than its name says
        f"{A}\n{B}",  # two digests without names: which?
        "<html>big.iso</html>",
    ],
)
def test_a_list_without_the_file_is_refused_by_name(text):
    with pytest.raises(BadOption, match=r"SUMS has no checksum for 'big\.iso'"):
        choose(text, names_of("https://h/images/big.iso", None), source="SUMS")


def test_entries_that_contradict_each_other_are_refused():
    with pytest.raises(BadOption, match=f"several entries for 'big.iso'.*{A} and {B}"):
        choose(f"{A}  x/big.iso\n{B}  y/big.iso", ["/z/big.iso"], source="SUMS")


def test_the_outputs_name_counts_where_the_urls_is_not_listed():
    names = names_of("https://h/download?id=5", "images/big%20one.iso")
    assert choose(f"{A}  big%20one.iso", names, source="SUMS") == ALL
    names = names_of("https://h/b%C3%A4r%20one.iso", "other")
    assert choose(f"{A}  bär one.iso\n{B}  other", names, source="SUMS") == ALL


def test_digests_from_several_places_have_to_agree():
    assert given(A.upper(), {"sha256": A}, {"md5": "1" * 32}) == {"sha-256": A, "md5": "1" * 32}
    with pytest.raises(BadOption, match="twice"):
        given(A, {"sha-256": B})
    for nonsense in ("", "abc", "g" * 64, "a" * 40):
        with pytest.raises(BadOption, match="64"):
            given(nonsense)
    with pytest.raises(BadOption, match="sha-512, sha-256"):
        given(None, {"whirlpool": A})
