"""What a chat model wants around a message: its template is rendered once, and parted where the message stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import jinja2
import jinja2.ext
import jinja2.sandbox

from llmfeat.errors import TemplateError

__all__ = ["ChatFrame"]

# Two messages that no template knows; what is around them must be the same.
_PROBES = ("llmfeat message", "another, longer llmfeat message")


@dataclass(frozen=True)
class ChatFrame:
    """The text before and after a user's message.

    Attributes
    ----------
    before, after : str
        Special tokens written out; after the message the answer begins.
    """

    before: str = ""
    after: str = ""

    @classmethod
    def of(
        cls, template: str, special_tokens: Mapping[str, str], *, system: str | None = None, opening: str = ""
    ) -> Self:
        """Return the frame of a chat template.

        Parameters
        ----------
        template : str
            In Jinja, as models of transformers carry it; it is run in a sandbox.
        special_tokens : mapping of str to str
            By their role, such as ``bos_token``.
        system : str, optional
            The message before the user's. Where a template knows none, it stands before the user's message.
        opening : str
            How the answer begins.

        Raises
        ------
        TemplateError
            When the template cannot be rendered, or changes what the user says.
        """
        try:
            compiled = _environment().from_string(template)
            try:
                frame = _parted(compiled, special_tokens, [{"role": "system", "content": system}] if system else [])
            except _Refused:
                if not system:
                    raise
                before, after = _parted(compiled, special_tokens, [])
                frame = f"{before}{system}\n\n", after
        except (jinja2.TemplateError, TypeError, _Refused) as error:
            raise TemplateError(
                f"the model's chat template cannot be rendered ({error}): pass chat=False, and write the prompt as the "
                "model was trained on it"
            ) from error
        return cls(frame[0], frame[1] + opening)

    def render(self, message: str) -> str:
        """Return a prompt."""
        return f"{self.before}{message}{self.after}"


class _Refused(Exception):  # noqa: N818  what a template says through raise_exception
    """A template that does not take these messages."""


def _parted(template: jinja2.Template, special: Mapping[str, str], system: list[Any]) -> tuple[str, str]:
    found = set()
    for probe in _PROBES:
        said = [*system, {"role": "user", "content": probe}]
        before, middle, after = template.render(messages=said, add_generation_prompt=True, **special).partition(probe)
        if not middle or probe in after:
            raise _Refused("it changes what the user says")
        found.add((before, after))
    if len(found) > 1:
        raise _Refused("what stands around a message depends on it")
    if system and system[0]["content"] not in next(iter(found))[0]:
        raise _Refused("it leaves the system's message out")
    return found.pop()


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    # As transformers sets it up for these templates.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )

    def refuse(message: str) -> NoReturn:
        raise _Refused(message)

    environment.globals["raise_exception"] = refuse
    # A template that writes today's date would give other scores tomorrow.
    environment.globals["strftime_now"] = lambda form: ""
    return environment
