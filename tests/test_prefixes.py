"""A tree of tokens, runs of rows, and prefixes that are remembered."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat.encode.lm.causal import Prefix
from llmfeat.encode.lm.prefixes import RUN_TOKENS, WORTH_TOKENS, PrefixStore, branches, common, cut_runs

# Few tokens, so that many prompts begin alike; the same ones may come again.
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
prompts = st.lists(st.one_of(tokens, tokens.map(lambda row: (7,) * 9 + row)), max_size=25)


def walk(branch, above=0, path=()):
    """Yield each branch, with the tokens shared above it."""
    yield branch, above, path
    for part in branch.parts:
        yield from walk(part, branch.n_tokens, (*path, branch))


def rows_of(branch):
    return [row for each, _, _ in walk(branch) for row in each.rows]


class TestBranches:
    @given(prompts, st.integers(1, 40))
    @settings(max_examples=200)
    def test_every_prompt_once_behind_what_it_shares(self, given_prompts, worth):
        tree = branches(given_prompts, worth=worth)
        assert sorted(rows_of(tree)) == list(range(len(given_prompts)))
        for branch, above, _ in walk(tree):
            rows = rows_of(branch)
            assert len({given_prompts[row][: branch.n_tokens] for row in rows}) <= 1
            assert all(len(given_prompts[row]) > branch.n_tokens for row in rows)
            if branch is not tree:
                assert branch.n_tokens > above
                assert (len(rows) - 1) * (branch.n_tokens - above) >= worth
                assert branch.first == min(rows)

    @given(prompts)
    @settings(max_examples=100)
    def test_where_any_token_is_worth_it_all_that_is_shared_is_run_once(self, given_prompts):
        """The positions computed are the nodes of the trie, but for last tokens, which no prompt may give away."""
        tree = branches(given_prompts, worth=1)
        computed = sum(branch.n_tokens - above for branch, above, _ in walk(tree))
        computed += sum(len(given_prompts[row]) - branch.n_tokens for branch, _, _ in walk(tree) for row in branch.rows)
        inner = {prompt[:end] for prompt in given_prompts for end in range(1, len(prompt))}
        assert computed == len(inner) + len(given_prompts)

    def test_two_users_and_a_lone_prompt(self):
        one, two = tuple(range(100, 140)), tuple(range(200, 250))
        tree = branches([(*one, 1), (9, 9), (*two, 1), (*one, 2), (*two, 2)])
        assert (tree.n_tokens, tree.rows) == (0, [1])
        assert sorted((part.n_tokens, sorted(part.rows)) for part in tree.parts) == [(40, [0, 3]), (50, [2, 4])]

    def test_a_prompt_that_is_all_of_another_keeps_its_last_token(self):
        tree = branches([(1, 2, 3), (1, 2, 3, 4), (1, 2, 3)], worth=1)
        assert [(part.n_tokens, sorted(part.rows)) for part in tree.parts] == [(2, [0, 1, 2])]

    def test_what_saves_too_little_is_not_run_apart(self):
        alike = [(1, 2, 3, at) for at in range(5)]
        assert branches(alike, worth=13).parts == []
        assert len(branches(alike, worth=12).parts) == 1

    def test_prompts_that_are_a_thousand_deep(self):
        chain = [tuple(range(end)) for end in range(1, 1500)]
        assert sorted(rows_of_flat(branches(chain, worth=1))) == list(range(len(chain)))

    def test_none(self):
        assert rows_of(branches([])) == []


def rows_of_flat(tree):
    waiting, rows = [tree], []
    while waiting:
        branch = waiting.pop()
        rows += branch.rows
        waiting += branch.parts
    return rows


@given(tokens, tokens)
def test_common_counts_equal_tokens_at_the_begin(one, two):
    expected = next((at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), None)
    assert common(one, two) == (min(len(one), len(two)) if expected is None else expected)


class TestRuns:
    @staticmethod
    def cost(lengths, runs):
        return sum(RUN_TOKENS + (end - begin) * max(lengths[begin:end]) for begin, end in runs)

    @staticmethod
    def allowed(lengths, runs, most):
        return all(end - begin == 1 or (end - begin) * max(lengths[begin:end]) <= most for begin, end in runs)

    @given(st.lists(st.integers(1, 40), min_size=1, max_size=8).map(sorted), st.integers(1, 150))
    @settings(max_examples=150)
    def test_cover_all_rows_at_the_least_cost(self, lengths, most):
        runs = list(cut_runs(lengths, most_tokens=most))
        assert [row for begin, end in runs for row in range(begin, end)] == list(range(len(lengths)))
        assert self.allowed(lengths, runs, most)
        every = [
            list(zip((0, *cuts), (*cuts, len(lengths)), strict=True))
            for n_cuts in range(len(lengths))
            for cuts in combinations(range(1, len(lengths)), n_cuts)
        ]
        assert self.cost(lengths, runs) == min(
            self.cost(lengths, each) for each in every if self.allowed(lengths, each, most)
        )

    def test_no_rows(self):
        assert list(cut_runs([], most_tokens=8)) == []


def prefix(row, n_bytes_each=8):
    """Keys whose values are the tokens."""
    keys = np.array(row, dtype=np.float64).reshape(1, 1, -1, 1)
    return Prefix(tuple(row), (keys,) if n_bytes_each == 8 else (keys, keys))


class TestStore:
    @given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=80).map(tuple), max_size=8), st.data())
    @settings(max_examples=100)
    def test_the_nearest_is_a_true_prefix(self, known, data):
        known = [(*(5,) * 30, *row) for row in known]
        store = PrefixStore(1 << 20)
        for row in known:
            store.add(prefix(row))
        asked = (*(5,) * 30, *data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=80)))
        most = data.draw(st.integers(0, len(asked)))
        found = store.get(store.known(asked, most=most))
        assert found.tokens == asked[: len(found.tokens)]
        longest = max((min(common(asked, row), most) for row in known), default=0)
        assert len(found.tokens) == (longest if longest >= min(WORTH_TOKENS, most) else 0)
        for each in found.cache:
            np.testing.assert_array_equal(each[0, 0, :, 0], found.tokens)

    def test_forgets_by_bytes_what_was_used_longest_ago(self):
        store = PrefixStore(3 * 40 * 8)
        first, second, third, fourth = ((at,) * 40 for at in range(1, 5))
        for row in (first, second, third):
            store.add(prefix(row))
        assert store.get(store.known(first, most=40)).tokens == first
        store.add(prefix(fourth))
        found = [len(store.get(store.known(row, most=40)).tokens) for row in (first, second, third, fourth)]
        assert found == [40, 0, 40, 40]

    def test_what_is_too_large_is_not_kept_and_pushes_nothing_out(self):
        store = PrefixStore(50 * 8)
        small, large = (1,) * 40, (2,) * 51
        store.add(prefix(small))
        store.add(prefix(large))
        assert [len(store.get(store.known(row, most=60)).tokens) for row in (small, large)] == [40, 0]

    def test_one_that_is_added_again_counts_once(self):
        store = PrefixStore(2 * 40 * 8)
        for _ in range(5):
            store.add(prefix((1,) * 40))
        store.add(prefix((2,) * 40))
        assert len(store.get(store.known((1,) * 40, most=40)).tokens) == 40

    @pytest.mark.parametrize("n_bytes_each", [8, 16])
    def test_a_cut_prefix_is_a_copy_of_its_begin(self, n_bytes_each):
        whole = prefix(range(40), n_bytes_each)
        cut = whole.cut(10)
        assert cut.tokens == tuple(range(10))
        assert cut.n_bytes == 10 * n_bytes_each
        assert whole.cut(40) is whole

    def test_keeps_nothing_without_room(self):
        store = PrefixStore(0)
        store.add(prefix((1,) * 40))
        assert store.get(store.known((1,) * 40, most=40)) == Prefix((), ())
