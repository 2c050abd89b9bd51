"""Which tokens prompts have in common: a tree of prefixes that are run once, and what is left of each prompt.

The tree is of tokens, never of texts: a prompt is tokenized whole, and parted between two of its tokens, so that where
a title begins makes no difference (as in RadixAttention; Zheng et al., SGLang, 2024).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock

from llmfeat.encode.lm.causal import Prefix

__all__ = ["RUN_TOKENS", "WORTH_TOKENS", "Branch", "PrefixStore", "branches", "common", "cut_runs"]

# A run of few tokens waits for the weights rather than computes: it takes as long as so many tokens more.
RUN_TOKENS = 16
# A prefix is run on its own where that saves so many tokens at least.
WORTH_TOKENS = 32


@dataclass
class Branch:
    """Prompts that share their first `n_tokens` tokens.

    Attributes
    ----------
    n_tokens : int
        How many tokens are shared, those of the branch above included.
    rows : list of int
        Prompts that go on alone from here.
    parts : list of Branch
        Prompts that share more.
    """

    n_tokens: int
    rows: list[int] = field(default_factory=list)
    parts: list[Branch] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The first prompt of the branch, whose tokens are those that all share."""
        return min([*self.rows, *(part.first for part in self.parts)])


def branches(prompts: Sequence[tuple[int, ...]], *, worth: int = WORTH_TOKENS) -> Branch:
    """Return the tree of some prompts, given by their tokens; each has at least one token behind its branch.

    Parameters
    ----------
    prompts : sequence of tuples of int
        Not one of them empty.
    worth : int
        The least number of tokens that a branch saves.

    Examples
    --------
    >>> tree = branches([(1, 2, 3, 4), (1, 2, 3, 5), (9,)], worth=2)
    >>> tree.rows, [(part.n_tokens, part.rows) for part in tree.parts]
    ([2], [(3, [0, 1])])
    """
    order = sorted(range(len(prompts)), key=lambda row: prompts[row])
    shared = [_usable(prompts[one], prompts[two]) for one, two in pairwise(order)]
    root = Branch(0)
    # Without recursion: a path may be as deep as prompts are long.
    waiting = [(root, 0, len(order), 0)]
    while waiting:
        branch, begin, end, floor = waiting.pop()
        for left, right in _runs(shared, begin, end, floor):
            if right - left == 1:
                branch.rows.append(order[left])
                continue
            n_tokens = min(shared[left : right - 1])
            if (right - left - 1) * (n_tokens - branch.n_tokens) >= worth:
                part = Branch(n_tokens)
                branch.parts.append(part)
                waiting.append((part, left, right, n_tokens))
            else:  # some of them may share enough more
                waiting.append((branch, left, right, n_tokens))
    return root


def _runs(shared: list[int], begin: int, end: int, n_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield where neighbours in the order share more than `n_tokens`, as far as it goes."""
    left = begin
    for at in range(begin, end):
        if at == end - 1 or shared[at] <= n_tokens:
            yield left, at + 1
            left = at + 1


def _usable(one: Sequence[int], two: Sequence[int]) -> int:
    """Return how many tokens two prompts share, less one where a prompt would have none of its own."""
    return min(common(one, two), len(one) - 1, len(two) - 1)


def common(one: Sequence[int], two: Sequence[int]) -> int:
    """Return how many tokens at the begin of both are the same."""
    n_tokens = min(len(one), len(two))
    if one[:n_tokens] == two[:n_tokens]:
        return n_tokens
    # By halves: comparing slices costs a fraction of what a loop over tokens does.
    low, high = 0, n_tokens
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle
    return low


def cut_runs(lengths: Sequence[int], *, most_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of the runs into which rows of ascending length are cut, at the least cost in all.

    A run costs its padded tokens and a little more (`RUN_TOKENS`): few long runs save the one, many short ones the
    other. A run has at most `most_tokens` padded tokens, or one row.
    """
    n_rows = len(lengths)
    costs, froms = [0.0] + [float("inf")] * n_rows, [0] * (n_rows + 1)
    for end in range(1, n_rows + 1):
        width = lengths[end - 1]
        for begin in range(end - 1, max(-1, end - 1 - max(1, most_tokens // width)), -1):
            cost = costs[begin] + RUN_TOKENS + (end - begin) * width
            if cost < costs[end]:
                costs[end], froms[end] = cost, begin
    edges = [n_rows]
    while edges[-1]:
        edges.append(froms[edges[-1]])
    yield from zip(edges[:0:-1], edges[-2::-1], strict=True)


class PrefixStore:
    """Keeps the prefixes that were used last, up to so many bytes; thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def known(self, tokens: tuple[int, ...], *, most: int) -> tuple[int, ...]:
        """Return the longest beginning of `tokens` that is known, of `most` tokens at most; nothing where none is.

        Less than `WORTH_TOKENS` are not worth a copy.
        """
        with self._lock:
            n_tokens = max((min(common(tokens, kept), most) for kept in self._kept), default=0)
        return tokens[:n_tokens] if n_tokens >= min(WORTH_TOKENS, most) else ()

    def get(self, tokens: tuple[int, ...]) -> Prefix:
        """Return the prefix of exactly these tokens, cut from a longer one; the empty one where it was forgotten."""
        with self._lock:
            kept = next((kept for kept in self._kept if kept[: len(tokens)] == tokens), ()) if tokens else ()
            if not kept:
                return Prefix((), ())
            self._kept.move_to_end(kept)
            prefix = self._kept[kept]
        return prefix.cut(len(tokens))

    def add(self, prefix: Prefix) -> None:
        """Keep a prefix, and forget those that were used longest ago."""
        with self._lock:
            if prefix.n_bytes > self.max_bytes or prefix.tokens in self._kept:
                return
            self._kept[prefix.tokens] = prefix
            self._n_bytes += prefix.n_bytes
            while self._n_bytes > self.max_bytes:
                self._n_bytes -= self._kept.popitem(last=False)[1].n_bytes
