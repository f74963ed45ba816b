"""Addresses of live streams."""

import re

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp")
DEVICE = re.compile(r"/dev/video\d+")


def is_live(source: str) -> bool:
    """Whether a source is a live stream: a URL of one of `SCHEMES`, or a camera /dev/videoN."""
    scheme, separator, _ = source.partition("://")
    return (bool(separator) and scheme.lower() in SCHEMES) or DEVICE.fullmatch(source) is not None


def shown_source(source: str) -> str:
    """A stream's URL as it may be shown: without a password and without what follows `?`, which may hold one."""
    hidden = re.sub(r"(://[^/:@]*):[^/]*@", r"\1:***@", source)
    if hidden == source:
        # One with a slash in it, which no sender takes, is still one; digits and a slash are a port.
        hidden = re.sub(r"(://[^/:@]*):(?!\d+/).*@", r"\1:***@", source)
    return hidden.partition("?")[0]
