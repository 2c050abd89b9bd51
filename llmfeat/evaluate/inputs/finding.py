"""What was noticed in the data, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity", "said_share"]

Severity = Literal["note", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that a reader of the report must know of the data.

    Attributes
    ----------
    code : str
        What it is, for programs: ``"ties"``.
    severity : {"note", "warning"}
        A warning may change what the figures mean.
    count, of : int
        So many of so many rows, items or users, as `what` says.
    what : str
        What was found, a sentence with its counts.
    handling : str
        What is done about it, or what the reader should do.

    Examples
    --------
    >>> from llmfeat.evaluate.inputs import Finding
    >>> Finding("ties", "note", 2, 4, "2 of 4 rows share a moment", "strictly earlier events are seen").count
    2
    """

    code: str
    severity: Severity
    count: int
    of: int
    what: str
    handling: str


def said_share(count: int, of: int) -> str:
    """Return ``"3 of 4 (75.0 %)"``; a share that is not 0 or 100 % never reads as one."""
    percent = 100 * count / of if of else 0.0
    said = f"{percent:.1f}"
    if count and said == "0.0":
        said = "under 0.1"
    if count < of and said == "100.0":
        said = "over 99.9"
    return f"{count:,} of {of:,} ({said} %)"
