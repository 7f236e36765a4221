"""One site, in the languages of four web servers: the same paths do the same on each.

/NAME               the file
/private/NAME       behind Basic authentication
/digest/NAME        behind Digest authentication, where the server has it
/digest-sha256/NAME the same with SHA-256, on lighttpd
/compressed/NAME    gzip for those who ask for it
/forced/NAME        gzip also for those who ask not to have it
/precompressed/NAME NAME.gz with Content-Encoding: gzip, on nginx, whatever was asked for
/labelled/NAME      as it is stored, with Content-Encoding: gzip
/moved/PATH         302 to /PATH
/away/PATH          302 to /PATH on another origin
/named/NAME         with a Content-Disposition of its own
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.passwords import REALM, caddy_account
from support.web_servers import apache, caddy, lighttpd, nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

USER, PASSWORD = "me", "pa55:wörd"
OFFERED_NAME = "€ rates – été.bin"
_DISPOSITION = (
    "attachment; filename=rates.bin; filename*=UTF-8''%E2%82%AC%20rates%20%E2%80%93%20%C3%A9t%C3%A9.bin"
)

_NGINX = """
types { text/plain txt; application/json json; application/gzip gz; }
default_type application/octet-stream;
location /private/ { auth_basic REALM; auth_basic_user_file PASSWORDS/htpasswd; }
location /compressed/ { gzip on; gzip_types text/plain application/json; gzip_min_length 1; }
location ~ ^/forced/(.*)$ {
    proxy_pass http://$server_addr:$server_port/compressed/$1;
    proxy_http_version 1.1;
    proxy_set_header Accept-Encoding gzip;
}
location /precompressed/ { gzip_static always; }
location /labelled/ { add_header Content-Encoding gzip; }
location /moved/ { rewrite ^/moved/(.*)$ /$1 redirect; }
location /away/ { rewrite ^/away/(.*)$ OTHER/$1 redirect; }
location /named/ { add_header Content-Disposition "DISPOSITION"; }
"""

_APACHE = """
AddType text/plain .txt
AddType application/json .json
<Location /private/>
    AuthType Basic
    AuthName REALM
    AuthUserFile PASSWORDS/htpasswd
    Require valid-user
</Location>
<Location /digest/>
    AuthType Digest
    AuthName REALM
    AuthUserFile PASSWORDS/htdigest
    Require valid-user
</Location>
<Location /compressed/>
    AddOutputFilterByType DEFLATE text/plain application/json
</Location>
<Location /forced/>
    SetEnv force-gzip 1
    SetOutputFilter DEFLATE
</Location>
<Location /labelled/>
    AddEncoding gzip .gz
</Location>
RedirectMatch 302 ^/moved/(.*)$ /$1
RedirectMatch 302 ^/away/(.*)$ OTHER/$1
<Location /named/>
    Header set Content-Disposition "DISPOSITION"
</Location>
"""

_LIGHTTPD = """
mimetype.assign = ( ".txt" => "text/plain", ".json" => "application/json", "" => "application/octet-stream" )
$HTTP["url"] =~ "^/private/" {
    auth.backend = "htpasswd"
    auth.backend.htpasswd.userfile = "PASSWORDS/htpasswd"
    auth.require = ( "" => ( "method" => "basic", "realm" => "REALM", "require" => "valid-user" ) )
}
$HTTP["url"] =~ "^/digest/" {
    auth.backend = "htdigest"
    auth.backend.htdigest.userfile = "PASSWORDS/htdigest"
    auth.require = ( "" => ( "method" => "digest", "realm" => "REALM", "require" => "valid-user" ) )
}
$HTTP["url"] =~ "^/digest-sha256/" {
    auth.backend = "htdigest"
    auth.backend.htdigest.userfile = "PASSWORDS/htdigest-sha256"
    auth.require = (
        "" => ( "method" => "digest", "algorithm" => "SHA-256", "realm" => "REALM", "require" => "valid-user" )
    )
}
$HTTP["url"] =~ "^/(compressed|forced)/" {
    deflate.mimetypes = ( "text/plain", "application/json" )
    deflate.allowed-encodings = ( "gzip" )
}
$HTTP["url"] =~ "^/forced/" { setenv.set-request-header = ( "Accept-Encoding" => "gzip" ) }
$HTTP["url"] =~ "^/labelled/" { setenv.add-response-header = ( "Content-Encoding" => "gzip" ) }
url.redirect-code = 302
url.redirect = ( "^/moved/(.*)$" => "/$1", "^/away/(.*)$" => "OTHER/$1" )
$HTTP["url"] =~ "^/named/" { setenv.add-response-header = ( "Content-Disposition" => "DISPOSITION" ) }
"""

_CADDY = """
basicauth /private/* scrypt {
    ACCOUNT
}
encode /compressed/* gzip
request_header /forced/* Accept-Encoding gzip
encode /forced/* gzip
header /labelled/* Content-Encoding gzip
@moved path_regexp moved ^/moved/(.*)$
redir @moved /{re.moved.1} 302
@away path_regexp away ^/away/(.*)$
redir @away OTHER/{re.away.1} 302
header /named/* Content-Disposition "DISPOSITION"
"""

_SITES: dict[str, tuple[Callable[..., AbstractContextManager[str]], str]] = {
    "nginx": (nginx, _NGINX),
    "apache": (apache, _APACHE),
    "lighttpd": (lighttpd, _LIGHTTPD),
    "caddy": (caddy, _CADDY),
}
SERVERS = tuple(_SITES)


@dataclass(frozen=True)
class Site:
    server: str
    url: str  #: without a slash at the end
    folder: Path  #: with the access log


@contextmanager
def site(server: str, folder: Path, documents: Path, passwords: Path, *, other: str = "") -> Iterator[Site]:
    """The site on one of `SERVERS`; `other` is the origin that /away/ leads to."""
    start, text = _SITES[server]
    for word, value in {
        "PASSWORDS": str(passwords),
        "REALM": REALM,
        "OTHER": other,
        # Apache has its own meaning for a percent sign.
        "DISPOSITION": _DISPOSITION.replace("%", "%%") if server == "apache" else _DISPOSITION,
        "ACCOUNT": caddy_account(USER, PASSWORD),
    }.items():
        text = text.replace(word, value)
    with start(folder, documents, extra=text) as url:
        yield Site(server, url, folder)
