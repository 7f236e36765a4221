import pytest

from orchestrator.access import Access, request_for
from tasks.transfer.errors import BadURL


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file.iso",
        "ftp://h/x",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://h:port/x",
        "http://a b/",
    ],
)
def test_what_cannot_be_asked_for_is_not_a_url(url):
    with pytest.raises(BadURL):
        request_for(url, Access())
