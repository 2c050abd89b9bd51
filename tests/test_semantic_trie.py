from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat.errors import InputError
from llmfeat.features.semantic import CodeTrie


class TestCodeTrie:
    CODES = np.array([[1, 0, 2], [0, 1, 0], [1, 0, 0], [1, 2, 2], [1, 0, 2]], dtype=np.int32)

    @pytest.fixture
    def trie(self) -> CodeTrie:
        return CodeTrie(self.CODES, (2, 3, 3))

    def test_by_hand(self, trie):
        assert trie.n_prefixes == (2, 3, 4)
        assert trie.codes.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 2], [1, 2, 2]]
        assert trie.prefix_ids(self.CODES).tolist() == [[1, 1, 2], [0, 0, 0], [1, 1, 1], [1, 2, 3], [1, 1, 2]]
        assert trie.prefix_ids(np.array([[1, 1, 1], [-1, -1, -1]])).tolist() == [[1, -1, -1], [-1, -1, -1]]

    @pytest.mark.parametrize(
        ("prefix", "children"), [([], [0, 1]), ([1], [0, 2]), ([1, 0], [0, 2]), ([0, 0], []), ([0, 4], []), ([-1], [])]
    )
    def test_children(self, trie, prefix, children):
        assert trie.children(prefix).tolist() == children

    @pytest.mark.parametrize("prefix", [[1, 0, 2], [1, 0, 2, 0]])
    def test_a_whole_code_has_no_children(self, trie, prefix):
        with pytest.raises(InputError, match="a whole code has 3"):
            trie.children(prefix)

    @given(st.integers(0, 1000), st.integers(1, 60))
    @settings(max_examples=30, deadline=None)
    def test_walking_the_tree_gives_the_codes_and_their_order(self, seed, n_items):
        sizes = (3, 5, 2, 4)
        codes = np.random.default_rng(seed).integers(0, sizes, (n_items, 4)).astype(np.int32)
        trie = CodeTrie(codes, sizes)
        prefixes = [[]]
        for depth in range(4):
            prefixes = [[*prefix, child] for prefix in prefixes for child in trie.children(prefix).tolist()]
            assert len(prefixes) == trie.n_prefixes[depth]
        assert prefixes == trie.codes.tolist() == np.unique(codes, axis=0).tolist()
        assert trie.prefix_ids(trie.codes)[:, -1].tolist() == list(range(len(prefixes)))

    def test_codes_of_16_levels_fit(self):
        codes = np.array([[14] * 16, [0] * 16], dtype=np.int32)
        assert CodeTrie(codes, (15,) * 16).codes.tolist() == codes[::-1].tolist()

    def test_no_items(self):
        trie = CodeTrie(np.empty((0, 2), dtype=np.int32), (2, 2))
        assert trie.children().tolist() == []
        assert trie.prefix_ids(np.array([[0, 1]])).tolist() == [[-1, -1]]
        assert trie.codes.shape == (0, 2)
