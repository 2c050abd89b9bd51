"""Two towers learned from sequences: each item against those of its batch and a sample of the catalogue.

The loss is the cross-entropy of the item that came next, over the items that the batch's pairs aim at and a uniform
sample of the others. An item that is among them only by chance counts as often as it is left out, by the logarithm of
the probability of its being there (Bengio and Senécal, Adaptive importance sampling, 2008; Yi et al.,
Sampling-bias-corrected neural modeling, 2019). The item that came is always there, and is not corrected (Khrylchenko et
al., Correcting the LogQ correction, 2025). Where the sample is the whole catalogue, this is the full softmax.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat._base.progress import Advance, bar
from llmfeat.errors import InputError, NothingToLearnError
from llmfeat.rank.two_tower.data import TowerData
from llmfeat.rank.two_tower.net import Net, NetShape, principal_axes
from llmfeat.types import Float32Array, Int64Array

__all__ = ["Epoch", "Trained", "Training", "train_towers"]

_MOST_GRADIENT = 1.0  # the length that gradients are clipped to
_MOST_SCALE = math.log(100)  # as in CLIP: a temperature under 0.01 only overfits
_WARM_UP = 0.1
_N_HELD_OUT = 20_000  # pairs that are enough to tell epochs apart
_HELD_OUT_ITEMS = 20_000
_EVAL_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Training:
    """How towers are trained; see `TwoTower`."""

    dim: int
    hidden: int
    max_events: int
    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    batch_rows: int
    n_sampled: int
    temperature: float
    dropout: float
    id_dropout: float
    history_dropout: float
    held_out: float


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: mean losses in nats, of its pairs and of those held out (NaN without any)."""

    loss: float
    held_out_loss: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained:
    """The towers' parameters as arrays, and how they came about.

    Attributes
    ----------
    shape : NetShape
        The sizes.
    state : dict of str to ndarray
        By name, float32.
    epochs : tuple of Epoch
        With pairs held out those of the first training, without them.
    n_epochs : int
        How many epochs these parameters were trained for.
    n_pairs : int
        Of history and next item.
    """

    shape: NetShape
    state: dict[str, Float32Array]
    epochs: tuple[Epoch, ...]
    n_epochs: int
    n_pairs: int


def train_towers(data: TowerData, training: Training, *, seed: int, progress: bool = False) -> Trained:
    """Return towers trained on all pairs of history and next item of the sequences.

    With pairs held out (``held_out > 0``) the towers are trained twice: without the sequences that these are of, to
    learn after how many epochs their loss is lowest, then on all pairs, for as many.

    Raises
    ------
    MissingDependencyError
        When torch is not installed.
    NothingToLearnError
        When there are no two items to tell apart.
    """
    torch = import_optional("torch", purpose="training two towers")
    events = np.arange(len(data.item_codes))
    if np.count_nonzero(data.counts) < 2:
        raise NothingToLearnError(
            f"the sequences have {len(events)} events of {np.count_nonzero(data.counts)} items, but at least two items "
            "are needed to tell one from the other: pass more of the log"
        )
    held = _held_out_sequences(data, training.held_out, seed)[data.sequence_of_event]
    n_epochs, found = training.epochs, []
    with torch.random.fork_rng(devices=[]):
        parts = [events, events[~held]] if held.any() and not held.all() else [events]
        n_steps = sum(-(-len(part) // training.batch_rows) for part in parts)
        with bar(training.epochs * n_steps, what="training two towers", unit="steps", shown=progress) as advance:
            if len(parts) > 1:
                found = _Run(torch, data, training, seed).fit(events[~held], events[held], training.epochs, advance)
                n_epochs = 1 + int(np.argmin([epoch.held_out_loss for epoch in found]))
            run = _Run(torch, data, training, seed)
            last = run.fit(events, events[:0], n_epochs, advance)
    state = run.net.state()
    state["items"][1:][data.counts == 0] = 0  # nothing was learned about them alone
    return Trained(run.net.shape, state, tuple(found or last), n_epochs, len(events))


def _held_out_sequences(data: TowerData, share: float, seed: int) -> Any:
    """Return which sequences are held out, bool of shape ``(n_sequences,)``; all of a user's are, or none."""
    n_sequences = len(data.offsets) - 1
    owners = np.arange(n_sequences) if data.users is None else data.users
    _, owners = np.unique(owners, return_inverse=True)
    n_owners = int(owners.max(initial=-1)) + 1
    drawn = np.random.default_rng([seed, 1]).permutation(n_owners) < round(share * n_owners)
    return drawn[owners]


class _Run:
    """One training from the start."""

    def __init__(self, torch: Any, data: TowerData, training: Training, seed: int) -> None:
        torch.manual_seed(seed)
        self._torch, self._data, self._how = torch, data, training
        self._random = np.random.default_rng([seed, 2])
        axes, mean = principal_axes(data.features, training.dim)
        shape = NetShape(
            dim=training.dim,
            n_features=data.features.shape[1],
            n_items=data.n_items,
            n_users=data.n_users,
            n_context=data.n_context,
            max_events=training.max_events,
            hidden=training.hidden,
        )
        self.net = Net.begin(shape, axes, mean, temperature=training.temperature)
        self._features = torch.from_numpy(data.features)

    def fit(self, events: Int64Array, held_out: Int64Array, epochs: int, advance: Advance) -> list[Epoch]:
        """Train for so many epochs, fewer where the loss of the pairs held out rises; return what each gave."""
        torch, how = self._torch, self._how
        known = np.bincount(self._data.item_codes[events], minlength=self._data.n_items) > 0
        self._has_row = known  # an item that does not come has no row of its own, then as later
        per_epoch = -(-len(events) // how.batch_rows)
        # The schedule is that of all epochs that were asked for, however many are run.
        n_steps = how.epochs * per_epoch
        warm = max(1, round(_WARM_UP * n_steps))

        def rate(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, n_steps - warm))))

        optimizers = [
            torch.optim.AdamW(self.net.others, lr=how.learning_rate, weight_decay=how.weight_decay),
            torch.optim.SparseAdam(self.net.tables, lr=how.learning_rate),
        ]
        schedules = [torch.optim.lr_scheduler.LambdaLR(each, rate) for each in optimizers]
        found: list[Epoch] = []
        best, since = math.inf, 0
        for _ in range(epochs):
            started, total = time.perf_counter(), 0.0
            for rows in self._batches(events):
                loss = self._loss(rows)
                if not torch.isfinite(loss):
                    raise InputError(
                        f"the loss became {float(loss.detach())}: lower learning_rate, {how.learning_rate} now"
                    )
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.net.others, _MOST_GRADIENT)
                for each in (*optimizers, *schedules):
                    each.step()
                for each in optimizers:
                    each.zero_grad()
                with torch.no_grad():
                    self.net.parameters["scale"].clamp_(max=_MOST_SCALE)
                total += float(loss.detach()) * len(rows)
                advance(1, f"loss {total / len(events):.3f}" if found else "")
            held = self._held_out_loss(held_out) if len(held_out) else math.nan
            found.append(Epoch(total / len(events), held, time.perf_counter() - started))
            since = 0 if held < best else since + 1
            best = min(best, held)
            if len(held_out) and since >= how.patience:
                advance((epochs - len(found)) * per_epoch)
                break
        return found

    def _batches(self, events: Int64Array) -> Iterator[Int64Array]:
        order = self._random.permutation(events)
        for first in range(0, len(order), self._how.batch_rows):
            yield order[first : first + self._how.batch_rows]

    def _loss(self, rows: Int64Array) -> Any:
        torch, data, how = self._torch, self._data, self._how
        targets = data.item_codes[rows].astype(np.int64)
        history, there = data.histories(rows)
        keep = there & (self._random.random(there.shape) >= how.history_dropout)
        there = np.where(keep.any(axis=1, keepdims=True), keep, there)
        choices, log_share = self._choices(targets)
        items, place = np.unique(np.concatenate([choices, history.ravel()]), return_inverse=True)
        kept = torch.from_numpy((self._random.random(len(items)) >= how.id_dropout).astype(np.float32))
        vectors = self._vectors(items, kept)
        of_choices = vectors[torch.from_numpy(place[: len(choices)])]
        of_history = vectors[torch.from_numpy(place[len(choices) :].reshape(history.shape))]
        dropout = torch.nn.Dropout(how.dropout)
        users = self._users(rows, of_history, there, dropout)
        logits = self.net.parameters["scale"].exp() * users @ of_choices.T
        aim = torch.from_numpy(np.searchsorted(choices, targets))
        # What is there by chance stands for what is not; what came is there in any case.
        corrected = logits - torch.from_numpy(log_share)
        corrected = corrected.scatter(1, aim[:, None], logits.gather(1, aim[:, None]))
        return torch.nn.functional.cross_entropy(corrected, aim)

    def _choices(self, targets: Int64Array) -> tuple[Int64Array, Float32Array]:
        """Return the items of a batch, ascending, and the logarithm of each one's probability of being among them."""
        n_items, n_sampled = self._data.n_items, self._how.n_sampled
        if n_sampled >= n_items:
            return np.arange(n_items), np.zeros(n_items, np.float32)
        drawn = self._random.choice(n_items, n_sampled, replace=False)
        choices = np.unique(np.concatenate([targets, drawn]))
        share = self._data.counts[choices] / max(1, len(self._data.item_codes))
        missed = np.power(1 - share, len(targets)) * (1 - n_sampled / n_items)
        return choices, np.log1p(-missed).astype(np.float32)

    def _vectors(self, items: Int64Array, kept: Any = None) -> Any:
        torch = self._torch
        rows = torch.from_numpy(np.where(self._has_row[items], items + 1, 0))
        return self.net.items(self._features[torch.from_numpy(items)], rows, kept=kept)

    def _users(self, events: Int64Array, of_history: Any, there: Any, dropped: Any = None) -> Any:
        torch, data = self._torch, self._data
        rows = np.zeros(len(events), np.int64) if data.users is None else data.users[data.sequence_of_event[events]] + 1
        context = None if data.context is None else torch.from_numpy(data.context[events])
        return self.net.users(of_history, torch.from_numpy(there), torch.from_numpy(rows), context, dropped=dropped)

    def _held_out_loss(self, events: Int64Array) -> float:
        """Return the mean loss of pairs against the whole catalogue, or the same sample of it each time."""
        torch, data = self._torch, self._data
        events = events[:: max(1, len(events) // _N_HELD_OUT)]
        targets = data.item_codes[events].astype(np.int64)
        others = np.arange(data.n_items)[:: max(1, data.n_items // _HELD_OUT_ITEMS)]
        choices = np.unique(np.concatenate([targets, others]))
        total = 0.0
        with torch.inference_mode():
            of_choices = self._vectors(choices)
            for first in range(0, len(events), _EVAL_ROWS):
                rows = events[first : first + _EVAL_ROWS]
                history, there = data.histories(rows)
                items, place = np.unique(history, return_inverse=True)
                of_history = self._vectors(items)[torch.from_numpy(place.reshape(history.shape))]
                logits = self.net.parameters["scale"].exp() * self._users(rows, of_history, there) @ of_choices.T
                aim = torch.from_numpy(np.searchsorted(choices, targets[first : first + _EVAL_ROWS]))
                total += float(torch.nn.functional.cross_entropy(logits, aim, reduction="sum"))
        return total / len(events)
