"""The origin over HTTP: probe a file, open ranges of it. The only package that imports requests."""

from tasks.transfer.http_source.body import Body
from tasks.transfer.http_source.identity import Identity
from tasks.transfer.http_source.outgoing import Outgoing, check_ways_out, ways_out
from tasks.transfer.http_source.sender import HttpLimits
from tasks.transfer.http_source.source import Probe, Source

__all__ = ["Body", "HttpLimits", "Identity", "Outgoing", "Probe", "Source", "check_ways_out", "ways_out"]
