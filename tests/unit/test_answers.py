import pytest
import requests

from tasks.transfer.http_source.answers import coding_to_undo


@pytest.mark.parametrize(
    ("submitted", "answered", "disposition", "undone"),
    [
        ("http://h/x.tar.gz", "http://h/x.tar.gz?sig=1", None, None),
        # Where a redirect leads, the name is often another.
        ("http://h/latest", "http://h/x.tar.gz?sig=1", None, None),
        ("http://h/x.tar.gz", "http://h/objects/3f9a", None, None),
        ("http://h/latest", "http://h/objects/3f9a", 'attachment; filename="x.TGZ"', None),
        ("http://h/page.html", "http://h/page.html", None, "gzip"),
    ],
)
def test_a_coding_is_a_label_if_any_name_of_the_file_says_so(submitted, answered, disposition, undone):
    response = requests.Response()
    response.url = answered
    response.headers["Content-Encoding"] = "gzip"
    if disposition is not None:
        response.headers["Content-Disposition"] = disposition
    assert coding_to_undo(response, submitted) == undone
