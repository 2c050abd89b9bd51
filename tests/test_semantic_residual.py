from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat.features.semantic import CodeBook, residual
from llmfeat.features.semantic.residual import assign, exact_lengths, fit_book

# Two groups of two: the first level parts them at .5 and 10.5, the second leaves nothing over.
LINE = np.array([[0], [1], [10], [11]], dtype=np.float32)


def clustered(seed: int = 0, *, n_items: int = 300, dim: int = 12, n_groups: int = 9) -> np.ndarray:
    """Vectors in groups, a twin, and one item without text."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((n_groups, dim))
    vectors = centres[draw.integers(0, n_groups, n_items)] + 0.3 * draw.standard_normal((n_items, dim))
    vectors[1] = vectors[0]
    vectors[5] = np.nan
    return vectors.astype(np.float32)


def book_of(vectors, sizes, *, normalize=True, seed=0) -> CodeBook:
    state = np.random.RandomState(seed)
    return fit_book(vectors, sizes, normalize=normalize, n_init=1, max_iter=20, random_state=state)[0]


def tied(seed: int, dim: int = 96, n_codes: int = 32) -> tuple[np.ndarray, CodeBook]:
    """A vector that is equally far from every centroid: they are one another's permutations, it is constant."""
    draw = np.random.default_rng(seed)
    centroid = draw.standard_normal(dim)
    centroid = residual._on_grid(centroid / np.linalg.norm(centroid) * 0.9)
    level = np.stack([draw.permutation(centroid) for _ in range(n_codes)]).astype(np.float32)
    return np.ones((1, dim), dtype=np.float32), CodeBook((level,), normalize=True, exponent=0)


class TestAssign:
    @given(st.integers(1, 40), st.integers(0, 100), st.booleans())
    @settings(max_examples=25, deadline=None)
    def test_codes_are_those_of_exact_arithmetic(self, dim, seed, normalize):
        """Nothing is lost to rounding: integers without bound say the same, residuals included."""
        draw = np.random.default_rng(seed)
        vectors = draw.standard_normal((60, dim)).astype(np.float32)
        book = book_of(vectors, (5, 4, 3), normalize=normalize, seed=seed)
        new = (vectors[:20] * draw.choice([0.01, 1.5, 400], (20, 1))).astype(np.float32)
        codes, _ = assign(new, book)
        placed = residual._placed(new, normalize=normalize, exponent=book.exponent)
        for row, got in zip((placed * 2**24).astype(np.int64).astype(object), codes, strict=True):
            rest = row
            for level, code in zip(book.levels, got, strict=True):
                steps = (level.astype(np.float64) * 2**24).astype(np.int64).astype(object)
                distances = ((rest - steps) ** 2).sum(axis=1)
                least = distances[code] - distances.min()
                # Distances are rounded once, when they are whole: past 2**5 that makes two units of 2**-48 one.
                assert least <= (2 if not normalize else 0)
                rest = rest - steps[code]

    @given(st.integers(0, 50), st.lists(st.integers(0, 299), min_size=1, max_size=40), st.booleans())
    @settings(max_examples=25, deadline=None)
    def test_one_row_has_the_codes_that_it_has_in_a_batch(self, seed, rows, normalize):
        vectors = clustered(seed)
        book = book_of(vectors[6:], (16, 8), normalize=normalize)
        codes, errors = assign(vectors, book)
        some_codes, some_errors = assign(vectors[rows], book)
        assert some_codes.tobytes() == codes[rows].tobytes()
        np.testing.assert_array_equal(some_errors, errors[rows])

    @given(st.integers(0, 200))
    @settings(max_examples=20, deadline=None)
    def test_a_tie_goes_to_the_lower_code_in_any_order_of_addition(self, seed):
        vector, book = tied(seed)
        shuffled = np.random.default_rng(seed).permutation(book.dim)
        for columns in (slice(None), slice(None, None, -1), shuffled):
            turned = CodeBook((np.ascontiguousarray(book.levels[0][:, columns]),), normalize=True, exponent=0)
            assert assign(vector, turned)[0].tolist() == [[0]]

    def test_a_double_off_the_grid_fails_that_check(self, monkeypatch):
        monkeypatch.setattr(residual, "_STEP", 2.0**60)
        with pytest.raises(AssertionError):
            self.test_a_tie_goes_to_the_lower_code_in_any_order_of_addition.hypothesis.inner_test(self, 0)

    @given(st.integers(1, 700), st.integers(0, 20), st.sampled_from([1e-42, 1e-3, 1.0, 1e30]))
    @settings(max_examples=20, deadline=None)
    def test_lengths_are_exact_in_any_order(self, dim, seed, scale):
        draw = np.random.default_rng(seed)
        wide = (draw.standard_normal((7, dim)) * scale).astype(np.float32).astype(np.float64)
        lengths = exact_lengths(wide)
        np.testing.assert_array_equal(exact_lengths(np.ascontiguousarray(wide[:, draw.permutation(dim)])), lengths)
        np.testing.assert_allclose(lengths, np.linalg.norm(wide, axis=1), rtol=1e-5)
        assert exact_lengths(np.zeros((1, dim))) == [0]

    def test_memory_is_of_a_block_and_blocks_change_nothing(self, monkeypatch):
        vectors = clustered(1, n_items=40_000, dim=16)
        book = book_of(vectors[6:2000], (8, 8))
        codes, _ = assign(vectors, book)
        monkeypatch.setattr(residual, "_BLOCK_SIZE", 2**14)
        tracemalloc.start()
        again, _ = assign(vectors, book)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert again.tobytes() == codes.tobytes()
        # 24 bytes a row are the results, 16 the positions and the mask; vectors in float64 would take 128.
        assert peak < 40_000 * 64 + 20 * 2**17

    def test_a_vector_far_beyond_the_fitted_ones_is_taken_for_a_shorter_one(self):
        book = book_of(LINE, (2, 2), normalize=False)
        assert assign(np.array([[1e30], [-1e30]], dtype=np.float32), book)[0].tolist() == [[1, 1], [0, 0]]


class TestFitBook:
    def test_by_hand(self):
        book = book_of(LINE, (2, 2), normalize=False)
        assert book.exponent == 4
        assert [(level * 16).ravel().tolist() for level in book.levels] == [[0.5, 10.5], [-0.5, 0.5]]

    def test_fewer_distinct_vectors_than_codes_are_their_own_centroids(self):
        book = book_of(np.repeat(LINE, 3, axis=0), (9, 9), normalize=False)
        assert (book.levels[0] * 16).ravel().tolist() == [0, 1, 10, 11]
        assert book.n_codes == (4, 1)  # nothing is left over
        assert not book.levels[1].any()

    def test_centroids_are_short_and_on_the_grid(self):
        book = book_of(clustered(2)[6:], (16, 8, 8))
        for level in book.levels:
            assert level.dtype == np.float32
            steps = level.astype(np.float64) * 2**24
            np.testing.assert_array_equal(steps, np.rint(steps))
            assert np.linalg.norm(level, axis=1).max() <= 1.001

    def test_each_level_leaves_less_over(self):
        vectors = clustered(3)
        _, errors = assign(vectors, book_of(vectors[6:], (8, 8, 8)))
        means = np.nanmean(errors, axis=0)
        assert (np.diff(means) < 0).all()

    def test_vectors_that_differ_in_their_last_bit_make_fewer_codes_without_noise(self):
        near = np.full((40, 3), 0.5, dtype=np.float32)
        near[:, 0] += np.arange(40, dtype=np.float32) * 2**-23
        book = book_of(near, (20, 2), normalize=False)
        assert 1 <= book.n_codes[0] <= 20
