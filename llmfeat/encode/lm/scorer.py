"""`PromptScorer`: what a causal language model would answer to each of many prompts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat._base.progress import bar
from llmfeat.artifact import ModelArtifact, TextTokenizer
from llmfeat.encode.cache import VectorCache
from llmfeat.encode.lm.answers import Answers, AnswerTokens
from llmfeat.encode.lm.causal import CausalModel, Prefix
from llmfeat.encode.lm.prefixes import Branch, PrefixStore, branches, cut_runs
from llmfeat.errors import ArtifactCorruptError, BackendError, InputError
from llmfeat.types import Float32Array

__all__ = ["PromptScorer", "PromptTally"]

_PUT_ROWS, _PUT_S = 256, 5.0
# Of a call with a deadline: so many prompts in a run at most, so that the clock is looked at between them.
_HURRIED_ROWS = 8


@dataclass
class PromptTally:
    """What a scorer did since it was made.

    Attributes
    ----------
    prompts, cached : int
        Distinct prompts that were asked for; those that the cache held.
    late : int
        Those that a deadline left without a score.
    tokens : int
        Tokens of the prompts that were run, each counted as if it stood alone.
    computed : int
        Positions that the model computed for them, padding included.
    """

    prompts: int = 0
    cached: int = 0
    late: int = 0
    tokens: int = 0
    computed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Count something, from any thread."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def __getstate__(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("prompts", "cached", "late", "tokens", "computed")}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class PromptScorer:
    """Scores prompts by the probability that a causal language model answers them with yes rather than no.

    Nothing is generated and no text is parsed: the probabilities are those of the one token after the prompt. Tokens
    that prompts have in common at their begin, such as an instruction and a user's history, are run once, and their
    keys and values are read by all prompts that share them. A score is the same to some 1e-5 nats whatever is beside
    it, within 1e-3 of the prompt's alone.

    Parameters
    ----------
    artifact : ModelArtifact, str or Path
        A model that was exported as a scorer, or its folder.
    answers : Answers, default=Answers()
        The words that mean yes, and those that mean no.
    backend : str, default="auto"
        ``onnxruntime-cpu``, ``onnxruntime-cuda``, or the first of these that works here.
    threads : int, optional
        Threads of the backend; one per core by default.
    batch_tokens : int, default=4096
        Padded tokens that are computed at once, which bounds memory.
    cache : VectorCache, bool, str or Path, optional
        Where log-probabilities are kept from call to call and from process to process, by model, answers and prompt:
        a `VectorCache`, its folder, or True for the user's; none by default.
    prefix_bytes : int, default=256 MiB
        How much memory the keys and values of recent prefixes may take, for calls that share them with earlier ones.

    Attributes
    ----------
    tally : PromptTally
        Counts of prompts, cache hits, tokens and computed positions.

    Examples
    --------
    >>> scorer = PromptScorer("artifacts/scorer")  # doctest: +SKIP
    >>> scorer.scores(["Is water wet? Answer:", "Is fire wet? Answer:"])  # doctest: +SKIP
    array([...], dtype=float32)
    """

    def __init__(
        self,
        artifact: ModelArtifact | str | Path,
        *,
        answers: Answers | None = None,
        backend: str = "auto",
        threads: int | None = None,
        batch_tokens: int = 4096,
        cache: VectorCache | bool | str | Path | None = None,
        prefix_bytes: int = 256 << 20,
    ) -> None:
        for name, value, least in (
            ("threads", threads, 1),
            ("batch_tokens", batch_tokens, 1),
            ("prefix_bytes", prefix_bytes, 0),
        ):
            if value is not None and value < least:
                raise InputError(f"{name}={value!r}, but at least {least} was expected")
        self.artifact = artifact if isinstance(artifact, ModelArtifact) else ModelArtifact.load(artifact)
        if self.artifact.spec.kind != "scorer":
            raise InputError(
                f"{self.artifact.path} is an {self.artifact.spec.kind}, but a scorer was expected: "
                "export the model with kind='scorer' (llmfeat export MODEL --kind scorer)"
            )
        self.answers = Answers() if answers is None else answers
        self.backend = backend
        self.threads = threads
        self.batch_tokens = batch_tokens
        if isinstance(cache, bool):
            cache = VectorCache() if cache else None
        self.cache = VectorCache(cache) if isinstance(cache, str | Path) else cache
        self.prefix_bytes = prefix_bytes
        self.tally = PromptTally()
        self._pace_s: float | None = None  # seconds a token, as runs took lately

    @property
    def max_tokens(self) -> int:
        """The longest prompt, in tokens."""
        return self.artifact.spec.max_tokens

    @property
    def numerics(self) -> str:
        """The backend that runs the model."""
        return self._model.numerics

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        spec = self.artifact.spec
        return TextTokenizer(
            self.artifact.tokenizer_path,
            max_tokens=spec.max_tokens,
            pad_id=spec.pad_token_id,
            side=spec.truncation_side,
        )

    @cached_property
    def answer_tokens(self) -> AnswerTokens:
        """The tokens of the answers."""
        return self.answers.tokens(self.tokenizer)

    def scores(
        self, prompts: Sequence[str], *, special: bool = True, budget_s: float | None = None, progress: bool = False
    ) -> Float32Array:
        """Return log P(yes) - log P(no) of each prompt, in nats, float32 of shape ``(n_prompts,)``; see `log_probs`."""
        found = self.log_probs(prompts, special=special, budget_s=budget_s, progress=progress)
        difference: Float32Array = found[:, 0] - found[:, 1]
        return difference

    def log_probs(
        self, prompts: Sequence[str], *, special: bool = True, budget_s: float | None = None, progress: bool = False
    ) -> Float32Array:
        """Return log P(yes) and log P(no) of each prompt, in nats.

        Parameters
        ----------
        prompts : sequence of str
            The prompts; equal ones are scored once.
        special : bool, default=True
            Whether the tokenizer puts its special tokens around a prompt; a chat template has written them already.
        budget_s : float, optional
            Seconds after which no further run begins that would not end in time, as far as earlier ones tell. Prompts
            that come first are scored first; those that are left have NaN.
        progress : bool, default=False
            Whether to show a bar on standard error, when that is a terminal.

        Returns
        -------
        ndarray of shape (n_prompts, 2), float32
            The columns: yes, no. What is left to 1 is the probability of every other answer.

        Raises
        ------
        InputError
            When a prompt is no string, or longer than the model takes.
        BackendError
            When no backend works here, or a probability is not finite.
        """
        deadline = None if budget_s is None else time.perf_counter() + budget_s
        distinct: dict[str, int] = {}
        rows = [distinct.setdefault(prompt, len(distinct)) for prompt in _checked(prompts)]
        texts = list(distinct)
        self.tally.add(prompts=len(texts))
        found = np.full((len(texts), 2), np.nan, dtype=np.float32)
        keys = self._keys(texts, special)
        absent = np.arange(len(texts))
        if self.cache is not None and keys:
            found, there = self.cache.get(keys, 2)
            found[~there] = np.nan
            absent = np.flatnonzero(~there)
            self.tally.add(cached=len(texts) - len(absent))
        with bar(len(prompts), what="scoring", unit="prompts", shown=progress) as advance:
            advance(len(prompts) - len(absent))
            self._compute([texts[row] for row in absent.tolist()], absent, found, special, deadline, keys, advance)
        late = int(np.isnan(found[:, 0]).sum())
        self.tally.add(late=late)
        return found[rows]

    def count_tokens(self, prompts: Sequence[str], *, special: bool = True) -> list[int]:
        """Return the number of tokens of each prompt, whether the model takes so many or not."""
        return [len(ids) for ids in self.tokenizer.whole_ids(prompts, special=special)]

    def _keys(self, texts: list[str], special: bool) -> list[bytes]:
        if self.cache is None:
            return []
        tokens = [self.answer_tokens.positive.tolist(), self.answer_tokens.negative.tolist()]
        identity = [self.artifact.fingerprint, self.numerics, "answers", tokens, special]
        return self.cache.keys(bytes.fromhex(text_sha256(canonical_json(identity))), texts)

    def _compute(
        self,
        texts: list[str],
        rows: np.ndarray[Any, Any],
        found: Float32Array,
        special: bool,
        deadline: float | None,
        keys: list[bytes],
        advance: Callable[..., object],
    ) -> None:
        """Fill `found` at `rows`, as far as the deadline lets it."""
        if not texts:
            return
        ids = [tuple(each) for each in self.tokenizer.whole_ids(texts, special=special)]
        self._check_lengths(ids)
        waiting: list[int] = []
        put_at = time.monotonic()

        def put() -> None:
            if self.cache is not None and waiting:
                self.cache.put([keys[row] for row in waiting], found[waiting])
            waiting.clear()

        started, n_tokens = time.perf_counter(), 0
        try:
            for part, values in self._runs(ids, deadline):
                places = rows[part]
                found[places] = values
                waiting += places.tolist()
                n_tokens += sum(len(ids[row]) for row in part)
                advance(len(part), f"{n_tokens / (time.perf_counter() - started):,.0f} tokens/s")
                if len(waiting) >= _PUT_ROWS or time.monotonic() - put_at > _PUT_S:
                    put()
                    put_at = time.monotonic()
        finally:  # what was computed before an interruption is not lost
            put()

    def _runs(self, ids: list[tuple[int, ...]], deadline: float | None) -> Iterator[tuple[list[int], Float32Array]]:
        """Yield prompts and their log-probabilities, as they are computed."""
        tree = branches(ids)
        if deadline is not None:
            yield from self._hurried(tree, ids, deadline)
            return
        waiting: list[tuple[Branch, Prefix]] = [(tree, Prefix((), ()))]
        while waiting:
            branch, above = waiting.pop()
            prefix = self._extended(self._nearest(ids[branch.first][: branch.n_tokens], above), ids, branch)
            waiting += [(part, prefix) for part in branch.parts]
            for behind, rows in self._behind(prefix, branch.rows, ids):
                ordered = sorted(rows, key=lambda row: len(ids[row]))
                lengths = [len(ids[row]) - len(behind.tokens) for row in ordered]
                for begin, end in cut_runs(lengths, most_tokens=self.batch_tokens):
                    yield ordered[begin:end], self._run(behind, ordered[begin:end], ids)

    def _hurried(
        self, tree: Branch, ids: list[tuple[int, ...]], deadline: float
    ) -> Iterator[tuple[list[int], Float32Array]]:
        """Yield prompts strictly as they come, some at a time, up to the first that would be late."""
        above_of: dict[int, list[Branch]] = {}
        waiting = [[tree]]
        while waiting:
            path = waiting.pop()
            above_of |= dict.fromkeys(path[-1].rows, path)
            waiting += [[*path, part] for part in path[-1].parts]
        made: dict[int, Prefix] = {}  # by the number of its branch: what is shared is not run again
        begin = 0
        while begin < len(ids):
            path, end = above_of[begin], begin + 1
            while end < len(ids) and end - begin < _HURRIED_ROWS and above_of[end] is path:
                end += 1
            prefix = Prefix((), ())
            for branch in path:
                if id(branch) not in made:
                    known = self._nearest(ids[branch.first][: branch.n_tokens], prefix)
                    n_tokens = branch.n_tokens - len(known.tokens)
                    if n_tokens and not self._is_time(n_tokens, deadline):
                        return
                    made[id(branch)] = self._extended(known, ids, branch)
                prefix = made[id(branch)]
            if not prefix.tokens:  # prompts of an earlier call may share one, each its own
                end = begin + 1
            rows = list(range(begin, end))
            ((prefix, _),) = self._behind(prefix, rows, ids)
            n_tokens = len(rows) * max(len(ids[row]) - len(prefix.tokens) for row in rows)
            if not self._is_time(n_tokens, deadline):
                return
            yield rows, self._run(prefix, rows, ids)
            begin = end

    def _run(self, prefix: Prefix, rows: list[int], ids: list[tuple[int, ...]]) -> Float32Array:
        """Return the log-probabilities of prompts behind a prefix, at once."""
        own = [ids[row][len(prefix.tokens) :] for row in rows]
        n_computed = len(own) * max(map(len, own))
        started = time.perf_counter()
        values = self.answer_tokens.log_probs(self._model.logits(prefix, own))
        self._seen(n_computed, time.perf_counter() - started)
        if not np.isfinite(values).all():
            raise BackendError(
                f"{self.numerics} gives probabilities that are not finite for {len(rows)} prompts: take an artifact "
                "in fp32"
            )
        self.tally.add(tokens=sum(len(ids[row]) for row in rows), computed=n_computed)
        return values

    def _extended(self, prefix: Prefix, ids: list[tuple[int, ...]], branch: Branch) -> Prefix:
        """Return the prefix of a branch, run as far as it goes beyond one that is known."""
        own = ids[branch.first][len(prefix.tokens) : branch.n_tokens]
        if not own:
            return prefix
        started = time.perf_counter()
        made = self._model.extend(prefix, own)
        self._seen(len(own), time.perf_counter() - started)
        self.tally.add(computed=len(own))
        self._store.add(made)
        return made

    def _nearest(self, tokens: tuple[int, ...], above: Prefix) -> Prefix:
        """Return the longest prefix of some tokens that is known: of an earlier call, or of the branch above."""
        known = self._store.known(tokens, most=len(tokens))
        found = self._store.get(known) if len(known) > len(above.tokens) else above
        return found if len(found.tokens) > len(above.tokens) else above  # it may be forgotten in between

    def _behind(
        self, prefix: Prefix, rows: list[int], ids: list[tuple[int, ...]]
    ) -> Iterator[tuple[Prefix, list[int]]]:
        """Yield prefixes that are known and the prompts that go on from them; of lone prompts an earlier call's."""
        if prefix.tokens or not rows:
            yield prefix, rows
            return
        grouped: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            grouped.setdefault(self._store.known(ids[row], most=len(ids[row]) - 1), []).append(row)
        for tokens, together in grouped.items():
            yield self._store.get(tokens), together

    def _is_time(self, n_tokens: int, deadline: float) -> bool:
        return time.perf_counter() + n_tokens * (self._pace_s or self._probed_s()) <= deadline

    def _seen(self, n_tokens: int, seconds: float) -> None:
        """Note how long a token took, for deadlines: a mean that forgets."""
        now = seconds / n_tokens
        self._pace_s = now if self._pace_s is None else self._pace_s + 0.2 * (now - self._pace_s)

    def _probed_s(self) -> float:
        """Return how long a token takes where none was run yet, by a small run."""
        row, seconds = [self.artifact.spec.pad_token_id] * 32, 0.0
        for _ in range(2):  # the first run of a shape takes longer
            started = time.perf_counter()
            self._model.logits(Prefix((), ()), [row])
            seconds = time.perf_counter() - started
        self._pace_s = seconds / (2 * len(row))
        return self._pace_s

    def _check_lengths(self, ids: list[tuple[int, ...]]) -> None:
        longest = max(map(len, ids))
        if longest > self.max_tokens:
            n_long = sum(len(each) > self.max_tokens for each in ids)
            raise InputError(
                f"{n_long} of {len(ids)} prompts are longer than the {self.max_tokens} tokens that "
                f"{self.artifact.path} takes, one has {longest}: shorten them, or export the model with more max_tokens"
            )
        if not min(map(len, ids)):
            raise InputError("a prompt is empty, but at least one token was expected: leave it out")

    @cached_property
    def _model(self) -> CausalModel:
        there = ModelArtifact.load(self.artifact.path).fingerprint
        if there != self.artifact.fingerprint:
            raise ArtifactCorruptError(
                f"{self.artifact.path} now holds {there[:12]}, this scorer was made for "
                f"{self.artifact.fingerprint[:12]}: make a new PromptScorer"
            )
        return CausalModel(self.artifact, backend=self.backend, threads=self.threads)

    @cached_property
    def _store(self) -> PrefixStore:
        return PrefixStore(self.prefix_bytes)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session, the tokenizer and the prefixes out: they are made again on use."""
        opened = ("_model", "_store", "tokenizer", "answer_tokens")
        return {name: value for name, value in self.__dict__.items() if name not in opened} | {"_pace_s": None}


def _checked(prompts: Sequence[str]) -> Sequence[str]:
    if isinstance(prompts, str):
        raise InputError("prompts is one str, but a sequence of prompts was expected: put it in a list")
    for at, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise InputError(f"prompt {at} is a {type(prompt).__name__}, but a str was expected")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"prompt {at} holds a lone surrogate: decode it with errors='replace'") from error
    return prompts
