"""What the layers below the first adapted one make of a row: they do not change, so that it is computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Self

__all__ = ["KeptStates"]

_MOST_BYTES = 4 << 30
_NEAR = 0.05  # of log-probabilities, in nats; the same operations on the same batch differ by less


class KeptStates:
    """The model's last logits, from states that are kept of each row.

    A later epoch then costs the adapted layers alone. The states stay on the model's device, in its dtype.
    """

    def __init__(self, torch: Any, model: Any, decoder: Any, n_frozen: int) -> None:
        self._torch = torch
        self._model = model
        self._decoder = decoder
        self._layers = decoder.layers
        self._n_frozen = n_frozen
        self._states: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, torch: Any, model: Any, n_frozen: int, *, n_tokens: int) -> Self | None:
        """Return it for a model whose first layers are frozen.

        None where its layers are not to be told apart, or the states of so many tokens would take over 4 GiB.
        """
        decoder = model.get_decoder()
        if not isinstance(getattr(decoder, "layers", None), torch.nn.ModuleList) or not n_frozen:
            return None
        n_bytes = n_tokens * model.config.hidden_size * model.dtype.itemsize
        return cls(torch, model, decoder, n_frozen) if n_bytes <= _MOST_BYTES else None

    def logits(self, keys: Sequence[Hashable], inputs: Mapping[str, Any]) -> Any:
        """Return the logits after the last token of each row, of shape ``(n_rows, n_vocabulary)``.

        Parameters
        ----------
        keys : sequence
            What a row's states are found by again.
        inputs : mapping of str to tensor
            ``input_ids``, ``attention_mask`` and ``position_ids``, padded on the left.
        """
        mask = inputs["attention_mask"]
        lengths, width = mask.sum(1).tolist(), mask.shape[1]
        if not all(key in self._states for key in keys):
            for key, states, length in zip(keys, self._below(inputs), lengths, strict=True):
                self._states[key] = states[width - length :].clone()
        known = [self._states[key] for key in keys]
        padded = known[0].new_zeros((len(known), width, known[0].shape[-1]))
        for row, states in enumerate(known):
            padded[row, width - len(states) :] = states
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        with self._above():
            return self._model(inputs_embeds=padded, use_cache=False, logits_to_keep=1, **rest).logits[:, -1]

    def agrees(self, keys: Sequence[Hashable], inputs: Mapping[str, Any]) -> bool:
        """Return whether the logits are those of the whole model: not where it scales or refuses what it is given."""
        with self._torch.no_grad():
            whole = self._model(use_cache=False, logits_to_keep=1, **inputs).logits[:, -1].float()
            try:
                found = self.logits(keys, inputs).float()
            except (RuntimeError, TypeError, ValueError):  # a model that takes no states, or of another width
                return False
            return bool((found.log_softmax(-1) - whole.log_softmax(-1)).abs().max() < _NEAR)

    def _below(self, inputs: Mapping[str, Any]) -> Any:
        """Return what comes to the first adapted layer, of shape ``(n_rows, n_tokens, hidden_size)``."""
        found = []

        def stop(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            found.append(args[0] if args else named["hidden_states"])
            raise _EnoughError

        hook = self._layers[self._n_frozen].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with self._torch.no_grad(), contextlib.suppress(_EnoughError):
                self._model(use_cache=False, logits_to_keep=1, **inputs)
        finally:
            hook.remove()
        return found[0]

    @contextlib.contextmanager
    def _above(self) -> Iterator[None]:
        """Make the model begin with its first adapted layer."""
        self._decoder.layers = self._layers[self._n_frozen :]
        try:
            yield
        finally:
            self._decoder.layers = self._layers


class _EnoughError(Exception):
    """What comes to a layer was seen."""
