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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from llmfeat._base.optional import import_optional
from llmfeat._base.progress import Advance, bar
from llmfeat.errors import InputError, NothingToLearnError
from llmfeat.rank.two_tower.data import TowerData
from llmfeat.rank.two_tower.net import Net, NetShape, principal_axes
from llmfeat.types import Float32Array, Int64Array

__all__ = ["Epoch", "Trained", "Training", "train_towers"]

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

    def about(self, parity: Mapping[str, float]) -> dict[str, Any]:
        """Return what is to be known of the training, and of how near its graphs are, as plain values."""
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {
            "parity": dict(parity),
            "epochs": [{name: value for name, value in epoch.items() if np.isfinite(value)} for epoch in epochs],
            "n_epochs": self.n_epochs,
            "n_pairs": self.n_pairs,
        }


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
    InputError
        When the loss, or what was learned, is not finite.
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
    parts = [events, events[~held]] if held.any() and not held.all() else [events]
    n_steps = training.epochs * sum(-(-len(part) // training.batch_rows) for part in parts)
    with bar(n_steps, what="training two towers", unit="steps", shown=progress) as advance:
        if len(parts) > 1:
            found = _Run(torch, data, training, seed, events[~held]).fit(training.epochs, advance, events[held])
            n_epochs = 1 + int(np.argmin([epoch.held_out_loss for epoch in found]))
        run = _Run(torch, data, training, seed, events)
        last = run.fit(n_epochs, advance)
        advance((training.epochs - n_epochs) * -(-len(events) // training.batch_rows))
    state = run.net.state()
    if not all(np.isfinite(each).all() for each in state.values()):
        raise InputError(f"what was learned is not finite: lower learning_rate, {training.learning_rate} now")
    # Nothing was learned about these alone.
    state["items"][1:][~run.has_item_row] = 0
    state["users"][1:][~run.has_user_row] = 0
    return Trained(run.net.shape, state, tuple(found or last), n_epochs, len(events))


def _held_out_sequences(data: TowerData, share: float, seed: int) -> Any:
    """Return which sequences are held out, bool of shape ``(n_sequences,)``; all of a user's are, or none."""
    _, owners = np.unique(data.owners, return_inverse=True)
    n_owners = int(owners.max(initial=-1)) + 1
    n_held = min(max(1, round(share * n_owners)), n_owners - 1) if share else 0
    return (np.random.default_rng([seed, 1]).permutation(n_owners) < n_held)[owners]


class _Run:
    """One training from the start, on some events.

    What does not come among them has no row of its own, then as later.
    """

    def __init__(self, torch: Any, data: TowerData, training: Training, seed: int, events: Int64Array) -> None:
        self._torch, self._data, self._how, self._events = torch, data, training, events
        self._random = np.random.default_rng([seed, 2])
        self._draw = torch.Generator().manual_seed(seed)
        self._counts = data.counts_of(events)
        self.has_item_row = self._counts > 0
        self.has_user_row = np.zeros(data.n_users, dtype=bool)
        if data.has_users:
            self.has_user_row[data.owners[data.sequence_of_event[events]]] = True
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
        self.net = Net.begin(shape, axes, mean, temperature=training.temperature, draw=self._draw)
        self._features = torch.from_numpy(data.features)

    def fit(self, epochs: int, advance: Advance, held_out: Int64Array | None = None) -> list[Epoch]:
        """Train for so many epochs, fewer where the loss of the pairs held out rises; return what each gave."""
        torch, how, events = self._torch, self._how, self._events
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
            for rows in self._batches():
                loss = self.loss(rows)
                if not torch.isfinite(loss):
                    raise InputError(
                        f"the loss became {float(loss.detach())}: lower learning_rate, {how.learning_rate} now"
                    )
                loss.backward()
                for each in (*optimizers, *schedules):
                    each.step()
                for each in optimizers:
                    each.zero_grad()
                with torch.no_grad():
                    self.net.parameters["scale"].clamp_(max=_MOST_SCALE)
                total += float(loss.detach()) * len(rows)
                advance(1, f"loss {total / len(events):.3f}" if found else "")
            held = math.nan if held_out is None else self._held_out_loss(held_out)
            found.append(Epoch(total / len(events), held, time.perf_counter() - started))
            since = 0 if held < best else since + 1
            best = min(best, held)
            if held_out is not None and since >= how.patience:
                advance((epochs - len(found)) * per_epoch)
                break
        return found

    def _batches(self) -> Iterator[Int64Array]:
        order = self._random.permutation(self._events)
        for first in range(0, len(order), self._how.batch_rows):
            yield order[first : first + self._how.batch_rows]

    def loss(self, rows: Int64Array) -> Any:
        """Return the mean loss of some pairs, the events that are aimed at."""
        torch, data, how = self._torch, self._data, self._how
        targets = data.item_codes[rows].astype(np.int64)
        history, there = data.histories(rows)
        keep = there & (self._random.random(there.shape) >= how.history_dropout)
        there = np.where(keep.any(axis=1, keepdims=True), keep, there)
        choices, log_share = self.choices(targets)
        items, place = np.unique(np.concatenate([choices, history.ravel()]), return_inverse=True)
        kept = torch.from_numpy((self._random.random(len(items)) >= how.id_dropout).astype(np.float32))
        vectors = self._vectors(items, kept)
        of_choices = vectors[torch.from_numpy(place[: len(choices)])]
        of_history = vectors[torch.from_numpy(place[len(choices) :].reshape(history.shape))]
        users = self._users(rows, of_history, there, self._dropped)
        logits = self.net.parameters["scale"].exp() * users @ of_choices.T
        aim = torch.from_numpy(np.searchsorted(choices, targets))
        # What is there by chance stands for what is not; what came is there in any case.
        corrected = logits - torch.from_numpy(log_share)
        corrected = corrected.scatter(1, aim[:, None], logits.gather(1, aim[:, None]))
        return torch.nn.functional.cross_entropy(corrected, aim)

    def _dropped(self, values: Any) -> Any:
        kept = self._torch.rand(values.shape, generator=self._draw) >= self._how.dropout
        return values * kept / (1 - self._how.dropout)

    def choices(self, targets: Int64Array) -> tuple[Int64Array, Float32Array]:
        """Return the items of a batch, ascending, and the logarithm of each one's probability of being among them.

        That is the probability for a pair that aims at another: of coming among the other pairs of the batch, which are
        drawn without replacement, or in the sample.
        """
        n_items, n_sampled = self._data.n_items, self._how.n_sampled
        if n_sampled >= n_items:
            return np.arange(n_items), np.zeros(n_items, np.float32)
        drawn = self._random.choice(n_items, n_sampled, replace=False)
        choices = np.unique(np.concatenate([targets, drawn]))
        n_others, n_drawn = len(self._events) - 1, len(targets) - 1
        left = n_others - self._counts[choices]
        missed = np.exp(_log_falling(left, n_drawn) - _log_falling(np.array(n_others), n_drawn))
        share = 1 - missed * (1 - n_sampled / n_items)
        return choices, np.log(share).astype(np.float32)

    def _vectors(self, items: Int64Array, kept: Any = None) -> Any:
        torch = self._torch
        rows = torch.from_numpy(np.where(self.has_item_row[items], items + 1, 0))
        return self.net.items(self._features[torch.from_numpy(items)], rows, kept=kept)

    def _users(self, events: Int64Array, of_history: Any, there: Any, dropped: Any = None) -> Any:
        torch, data = self._torch, self._data
        owners = data.owners[data.sequence_of_event[events]]
        rows = np.where(self.has_user_row[owners], owners + 1, 0) if data.has_users else np.zeros(len(events), np.int64)
        context = None if data.context is None else torch.from_numpy(data.context[events])
        return self.net.users(of_history, torch.from_numpy(there), torch.from_numpy(rows), context, dropped=dropped)

    def _held_out_loss(self, events: Int64Array) -> float:
        """Return the mean loss of pairs against the whole catalogue, or the same sample of it each time."""
        torch, data = self._torch, self._data
        events = events[:: -(-len(events) // _N_HELD_OUT)]
        targets = data.item_codes[events].astype(np.int64)
        others = np.arange(data.n_items)[:: -(-data.n_items // _HELD_OUT_ITEMS)]
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


def _log_falling(n: Any, k: int) -> Any:
    """Return the logarithm of how many ways there are to draw `k` of `n` in order, ``-inf`` where there are none."""
    possible = n >= k
    enough = np.where(possible, n, k)
    return np.where(possible, gammaln(enough + 1.0) - gammaln(enough - k + 1.0), -np.inf)
