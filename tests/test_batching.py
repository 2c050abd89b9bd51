from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeat.encode.backends.base import CPU_BUCKETS
from llmfeat.encode.backends.onnxruntime_gpu import OnnxRuntimeGpu
from llmfeat.encode.batching import Batcher, bucket_lengths

PAD = -1
lengths_of_texts = st.lists(st.integers(1, 600), min_size=1, max_size=200)


def batches_of(lengths, *, batch_tokens=256, chunk=50, buckets=CPU_BUCKETS):
    """Text `row` has the tokens 1000 * row + 0, 1, 2, ..."""
    batcher = Batcher(buckets=buckets, max_tokens=600, batch_tokens=batch_tokens, pad_id=PAD)
    for begin in range(0, len(lengths), chunk):
        rows = np.arange(begin, min(begin + chunk, len(lengths)))
        part = np.array([lengths[row] for row in rows])
        flat = np.concatenate([1000 * row + np.arange(n) for row, n in zip(rows, part, strict=True)])
        yield from batcher.add(rows, flat, part)
    yield from batcher.flush()


@pytest.mark.parametrize("buckets", [CPU_BUCKETS, OnnxRuntimeGpu.buckets])
@given(lengths=lengths_of_texts)
def test_a_bucket_is_of_its_own_length_alone(buckets, lengths):
    together = bucket_lengths(np.array(lengths), buckets=buckets, max_tokens=600)
    alone = [int(bucket_lengths(np.array([length]), buckets=buckets, max_tokens=600)[0]) for length in lengths]
    assert together.tolist() == alone
    assert (together >= lengths).all()
    assert (together <= 600).all()


@given(lengths=lengths_of_texts, chunk=st.integers(1, 60))
def test_every_text_comes_once_with_its_own_tokens(lengths, chunk):
    seen = []
    for batch in batches_of(lengths, chunk=chunk):
        for row, ids, mask in zip(batch.rows, batch.ids, batch.mask, strict=True):
            n_tokens = lengths[row]
            assert ids[:n_tokens].tolist() == (1000 * row + np.arange(n_tokens)).tolist()
            assert (ids[n_tokens:] == PAD).all()
            assert mask.tolist() == [1] * n_tokens + [0] * (len(ids) - n_tokens)
            seen.append(int(row))
    assert sorted(seen) == list(range(len(lengths)))


@given(lengths=lengths_of_texts)
def test_batches_keep_the_budget(lengths):
    for batch in batches_of(lengths, batch_tokens=256):
        assert batch.ids.size <= 256 or len(batch) == 1


def test_shapes_are_few():
    draw = np.random.default_rng(0)
    shapes = {batch.ids.shape for at in range(30) for batch in batches_of(draw.integers(5, 25, 100 + 17 * at).tolist())}
    rows = {n_rows for n_rows, _ in shapes}
    full = {256 // length for length in range(5, 25)}
    assert rows <= full | {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48}


def test_short_texts_are_not_padded_and_long_ones_hardly():
    draw = np.random.default_rng(0)
    for mean, least in ((12, 0.999), (86, 0.97), (300, 0.95)):
        lengths = np.clip(draw.normal(mean, mean / 3, 5000), 4, 510).astype(int).tolist()
        batches = list(batches_of(lengths, batch_tokens=4096, chunk=512))
        assert sum(batch.mask.sum() for batch in batches) / sum(batch.ids.size for batch in batches) > least
