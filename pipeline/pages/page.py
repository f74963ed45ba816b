"""The one HTML generator: blocks to a page that needs nothing but itself.

A page makes no request: style, script and pictures stand inside, and its content security policy forbids the rest. The
policy names style and script by their hashes, so that a script that came in by a name could not run either.
"""

import base64
import hashlib
from pathlib import Path

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.clips.files import replacing
from pipeline.clips.plain_text import visible
from pipeline.clips.video import Frames
from pipeline.pages.blocks import Page
from pipeline.pages.drawing import WIDTH

TEMPLATES = Path(__file__).parent / "templates"


def render_page(page: Page) -> str:
    """The page as HTML, names in it escaped, and codes that turn the order of letters. The same page, the same text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    template = environment.get_template("page.html")
    # Style and script hold no such code, so their hashes stay true.
    return visible(
        template.render(page=page, policy=policy, style=Markup(style), script=Markup(script), chart_width=WIDTH)
    )


def write_page(path: Path, page: Page) -> None:
    """Write a page, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    text = render_page(page)
    with replacing(path) as partial:
        # A file's name may hold bytes that are no text.
        partial.write_text(text, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def picture_of(frame: Frames, *, quality: int = 85) -> str:
    """A frame, uint8 (H, W, 3) RGB, as the data: URI of a JPEG."""
    found, coded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not found:
        raise ValueError(f"a frame of shape {frame.shape} cannot be coded as JPEG; wanted uint8 (H, W, 3)")
    return _uri("image/jpeg", coded.tobytes())


def picture_in(path: Path) -> str:
    """A PNG file as a data: URI."""
    return _uri("image/png", path.read_bytes())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _source(text: str) -> str:
    """How a content security policy names a style or script by its content."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
