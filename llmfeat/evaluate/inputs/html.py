"""Plain text of texts that were written for a browser: entities and tags as shops and feeds leave them."""

from __future__ import annotations

import html
import html.entities
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.text._cells import TEXT, null_if_empty
from llmfeat.types import BoolArray

__all__ = ["plain_text", "plain_texts"]

# What a text must hold to be looked at; Arrow finds those few among millions.
_SUSPECT = r"&#?\w+;|</?[A-Za-z]|<!"
# Only entities that end in a semicolon: html.unescape also reads "AT&T;"-like beginnings such as "&notable".
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|([A-Za-z][A-Za-z0-9]*));")
# "&amp;amp;" is what two systems in a row make of "&"; more than three were never seen.
_MAX_ESCAPES = 3

# html.parser takes all from "<" to the next ">" for a tag, and at the end of a text what it does differs between
# releases of Python. So a tag is a name of HTML with attributes that have values: "a <b and c> d" stays.
_INLINE = re.compile(
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|strike|"
    "strong|sub|sup|time|tt|u|var|wbr"
)
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|br|button|caption|center|col|colgroup|dd|details|dialog|div|dl|dt|"
    "fieldset|figcaption|figure|footer|form|h1|h2|h3|h4|h5|h6|head|header|hgroup|hr|html|iframe|img|input|legend|li|"
    "link|main|map|menu|meta|nav|noscript|object|ol|optgroup|option|p|picture|pre|section|select|source|summary|"
    "table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video|audio|canvas|embed|param|svg|script|style"
)
_ATTRIBUTE = r"""\s+[A-Za-z_:@][\w:.@-]*\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s"'<>]+)"""
_TAG = re.compile(rf"</?([A-Za-z][A-Za-z0-9]*)(?:{_ATTRIBUTE})*\s*/?>")
_UNSEEN = re.compile(r"<!--.*?-->|<!doctype[^<>]*>|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)


def plain_text(text: str) -> str:
    """Return a text without entities, tags, comments and scripts; what is no HTML stays as it is.

    Examples
    --------
    >>> plain_text("<p>AT&amp;amp;T &lt;b&gt;phone&lt;/b&gt;<br/>new</p>")
    'AT&T phone new'
    >>> plain_text("I <3 cables with a < b")
    'I <3 cables with a < b'
    """
    plain = text
    for _ in range(_MAX_ESCAPES):
        unescaped = _ENTITY.sub(_character, plain)
        if unescaped == plain:
            break
        plain = unescaped
    plain = _TAG.sub(_gap, _UNSEEN.sub(" ", plain))
    return text if plain == text else " ".join(plain.split())


def plain_texts(texts: pa.LargeStringArray) -> tuple[pa.LargeStringArray, BoolArray]:
    """Return the plain text of each, null where nothing is left, and which of them changed."""
    changed = np.zeros(len(texts), dtype=np.bool_)
    suspect = pc.fill_null(pc.match_substring_regex(texts, _SUSPECT), False)
    rows = np.flatnonzero(suspect.to_numpy(zero_copy_only=False))
    if not len(rows):
        return texts, changed
    before = texts.take(pa.array(rows)).to_pylist()
    after = [plain_text(text) for text in before]
    changed[rows] = [new != old for new, old in zip(after, before, strict=True)]
    return null_if_empty(pc.replace_with_mask(texts, suspect, pa.array(after, TEXT))), changed


def _character(found: re.Match[str]) -> str:
    name = found[1]
    known = name is None or f"{name};" in html.entities.html5
    return html.unescape(found[0]) if known else found[0]


def _gap(found: re.Match[str]) -> str:
    name = found[1].lower()
    if _INLINE.fullmatch(name):
        return ""
    return " " if _BLOCK.fullmatch(name) else found[0]
