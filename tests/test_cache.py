"""The cache of vectors: right or not found, whatever happens to the file, the disk and the processes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal  # now: a fork while a thread imports it would wait for ever

from llmfeat.cli.main import cli
from llmfeat.encode.cache import VectorCache, environment, file, vectors
from llmfeat.encode.cache.chunks import parse, row_checksums
from llmfeat.encode.cache.file import is_short
from llmfeat.errors import CacheError, InputError, LLMFeatWarning

NAMESPACE = bytes(range(32))
DIM = 8


def keys_of(numbers) -> list[bytes]:
    return VectorCache.keys(NAMESPACE, [f"text {number}" for number in numbers])


def vectors_of(numbers, dim: int = DIM) -> np.ndarray:
    """The right answer for each number, known without the cache."""
    return (np.array(list(numbers))[:, None] * 1000.0 + np.arange(dim)).astype(np.float32)


def filled(path: Path, n: int = 10, **options) -> VectorCache:
    cache = VectorCache(path / "cache", **options)
    assert cache.put(keys_of(range(n)), vectors_of(range(n))) == n
    return cache


def found_right(cache: VectorCache, numbers, dim: int = DIM) -> list[bool]:
    """Which of the numbers are found; a vector that is not the right one fails."""
    numbers = list(numbers)
    got, found = cache.get(keys_of(numbers), dim)
    assert_array_equal(got, np.where(found[:, None], vectors_of(numbers, dim), 0))
    return found.tolist()


@contextlib.contextmanager
def raw(cache: VectorCache, name: str):
    """The database `name` of a closed cache, as LMDB has it."""
    cache.close()
    with lmdb.open(str(cache.path), max_dbs=4, map_size=1 << 30) as env:
        db = env.open_db(name.encode(), create=False)
        with env.begin(db, write=True) as txn:
            yield txn


def flip(cache: VectorCache, offset: int) -> None:
    """Flip a bit of the only chunk."""
    with raw(cache, "chunks") as txn:
        [(chunk, value)] = list(txn.cursor())
        changed = bytearray(value)
        changed[offset] ^= 16
        txn.put(chunk, bytes(changed))


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_800_000_000

    def time(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return self.now * 10**9


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(environment, "time", clock)
    return clock


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of ten vectors, for caches that a test can fill."""
    monkeypatch.setattr(vectors, "_CHUNK_BYTES", 10 * (24 + 4 * DIM))


class TestKeys:
    def test_are_digests_keyed_by_the_namespace(self):
        expected = [hashlib.blake2b(text.encode(), key=NAMESPACE, digest_size=16).digest() for text in ("a", "ü", "")]
        assert VectorCache.keys(NAMESPACE, ["a", "ü", ""]) == expected

    def test_of_a_text_that_is_no_unicode_are_its_own(self):
        assert len(set(VectorCache.keys(NAMESPACE, ["\ud800", "\ud801", "?", "\\ud800", ""]))) == 5

    def test_need_a_namespace_of_32_bytes(self):
        with pytest.raises(InputError, match="31 bytes came, but 32"):
            VectorCache.keys(bytes(31), ["a"])


class TestGetAndPut:
    def test_in_any_order_with_gaps(self, tmp_path):
        cache = filled(tmp_path, 500)
        numbers = np.random.default_rng(0).permutation(1000)
        assert found_right(cache, numbers) == (numbers < 500).tolist()

    def test_equal_a_dict(self, tmp_path, small_chunks):
        draw = np.random.default_rng(1)
        cache, expected = VectorCache(tmp_path), set()
        for _ in range(60):
            numbers = draw.integers(0, 400, draw.integers(0, 40)).tolist()
            if draw.random() < 0.5:
                assert cache.put(keys_of(numbers), vectors_of(numbers) if numbers else np.zeros((0, DIM))) == len(
                    set(numbers) - expected
                )
                expected.update(numbers)
            else:
                assert cache.get(keys_of(numbers), DIM)[1].tolist() == [number in expected for number in numbers]
        assert found_right(cache, range(400)) == [number in expected for number in range(400)]
        assert cache.info().n_entries == len(expected)

    @pytest.mark.parametrize("dim", [1, 3, 384, 1023, 100_000])
    def test_any_dimension(self, tmp_path, dim):
        cache = VectorCache(tmp_path)
        assert cache.put(keys_of(range(5)), vectors_of(range(5), dim)) == 5
        assert found_right(cache, range(6), dim) == [True] * 5 + [False]

    def test_more_than_one_transaction_holds(self, tmp_path, monkeypatch):
        monkeypatch.setattr(vectors, "_BLOCK_BYTES", 1000)
        assert found_right(filled(tmp_path, 100), range(100)) == [True] * 100

    def test_of_a_key_that_comes_twice_the_last_vector_counts(self, tmp_path):
        cache = VectorCache(tmp_path)
        assert cache.put(keys_of([1, 2, 1]), vectors_of([7, 2, 1])) == 2
        assert found_right(cache, [1, 2]) == [True, True]

    def test_bits_of_nan_and_zero_are_kept(self, tmp_path):
        odd = np.array([[0x7FC00001, 0xFFC12345, 0x80000000, 0x7F800000]], dtype=np.uint32).view(np.float32)
        cache = VectorCache(tmp_path)
        cache.put(keys_of([0]), odd)
        assert cache.get(keys_of([0]), 4)[0].tobytes() == odd.tobytes()

    def test_no_keys(self, tmp_path):
        got, found = VectorCache(tmp_path).get([], DIM)
        assert (got.shape, found.shape) == ((0, DIM), (0,))

    @pytest.mark.parametrize("shape", [(2,), (3, DIM), (2, 0)])
    def test_vectors_of_another_shape_are_refused(self, tmp_path, shape):
        with pytest.raises(InputError, match=r"but \(2, dim\) was expected"):
            VectorCache(tmp_path).put(keys_of(range(2)), np.zeros(shape))

    def test_keys_of_another_length_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="2 keys have 31 bytes, but 16 each"):
            VectorCache(tmp_path).get([bytes(16), bytes(15)], DIM)

    def test_namespaces_do_not_share(self, tmp_path):
        cache = filled(tmp_path)
        assert not cache.get(VectorCache.keys(bytes(32), ["text 1"]), DIM)[1].any()


class TestCorrupt:
    """Of ten rows in one chunk: header 8, checksums 10 x 8, keys 10 x 16, vectors 10 x 32."""

    @pytest.mark.parametrize(
        ("offset", "lost"),
        [(0, range(10)), (4, range(10)), (8, [0]), (87, [9]), (248, [0]), (279, [0]), (280, [1]), (567, [9])],
    )
    def test_a_flipped_bit_is_found(self, tmp_path, offset, lost):
        cache = filled(tmp_path)
        flip(cache, offset)
        assert found_right(cache, range(10)) == [number not in lost for number in range(10)]
        assert cache.n_corrupt == len(lost)

    def test_rows_that_were_exchanged_with_their_checksums_are_found(self, tmp_path):
        cache = filled(tmp_path)
        with raw(cache, "chunks") as txn:
            [(chunk, value)] = list(txn.cursor())
            changed = bytearray(value)
            held = parse(changed)
            held.vectors[[2, 5]], held.checksums[[2, 5]] = held.vectors[[5, 2]], held.checksums[[5, 2]]
            del held
            txn.put(chunk, bytes(changed))
        assert found_right(cache, range(10)) == [number not in (2, 5) for number in range(10)]

    @pytest.mark.parametrize("length", [0, 7, 8, 300, 567, 569])
    def test_a_value_of_another_length_is_found(self, tmp_path, length):
        cache = filled(tmp_path)
        with raw(cache, "chunks") as txn:
            [(chunk, value)] = list(txn.cursor())
            txn.put(chunk, (value + bytes(9))[:length])
        assert found_right(cache, range(10)) == [False] * 10
        assert cache.n_corrupt == 10

    def test_vectors_of_another_dimension_are_found(self, tmp_path):
        got, found = filled(tmp_path).get(keys_of(range(10)), DIM // 2)
        assert got.shape == (10, DIM // 2)
        assert not found.any()

    @pytest.mark.parametrize("place", [b"", b"short", bytes(8) + b"\1\0\0\0", None], ids=["empty", "short", "0", "row"])
    def test_an_index_entry_that_leads_nowhere_is_found(self, tmp_path, place):
        cache = filled(tmp_path)
        key = keys_of([3])[0]
        with raw(cache, "index") as txn:
            txn.put(key, txn.get(key)[:8] + b"\12\0\0\0" if place is None else place)
        assert found_right(cache, range(10)) == [number != 3 for number in range(10)]

    def test_what_is_corrupt_is_written_again(self, tmp_path):
        cache = filled(tmp_path)
        flip(cache, 250)
        assert cache.put(keys_of(range(10)), vectors_of(range(10))) == 1
        assert found_right(cache, range(10)) == [True] * 10

    def test_verify_removes_it(self, tmp_path):
        cache = filled(tmp_path)
        flip(cache, 250)
        assert cache.verify() == (10, 1)
        assert cache.verify() == (9, 0)
        assert found_right(cache, range(10)) == [False] + [True] * 9

    def test_changes_of_two_highest_bits_do_not_cancel(self):
        key, row = np.zeros((1, 16), dtype=np.uint8), np.zeros((1, 16), dtype=np.uint32)
        changed = row.copy()
        changed[0, [3, 11]] ^= 1 << 31
        assert row_checksums(key, row.view(np.float32)) != row_checksums(key, changed.view(np.float32))


class TestSize:
    def test_is_bounded_and_the_oldest_go_first(self, tmp_path, clock):
        cache = VectorCache(tmp_path, max_bytes=1 << 20)
        for begin in range(0, 100_000, 5000):
            numbers = range(begin, begin + 5000)
            cache.put(keys_of(numbers), vectors_of(numbers))
            clock.now += 1
            assert cache.info().used_bytes <= 1 << 20
        there = found_right(cache, range(100_000))
        assert sum(there) == cache.info().n_entries > 5000
        assert there == sorted(there), "the latest ones are there, and no others"

    def test_what_was_read_stays(self, tmp_path, clock, small_chunks):
        cache = filled(tmp_path, 100)
        clock.now += 10_000
        assert found_right(cache, range(20)) == [True] * 20
        cache.close()
        assert cache.prune(1 << 14) > 0
        assert found_right(cache, range(100)) == [number < cache.info().n_entries for number in range(100)]
        assert cache.info().n_entries in range(20, 100)

    def test_reads_do_not_write(self, tmp_path, clock, monkeypatch, small_chunks):
        monkeypatch.setattr(vectors, "_STAMPED_CHUNKS", 1)
        cache = filled(tmp_path, 100)
        n_written = []
        write = environment.Environment.writing
        monkeypatch.setattr(environment.Environment, "writing", lambda self: n_written.append(1) or write(self))
        found_right(cache, range(100))
        clock.now += 3000
        found_right(cache, range(100))
        assert not n_written
        clock.now += 3000
        found_right(cache, range(100))
        found_right(cache, range(100))
        assert n_written == [1]

    def test_prune_to_a_size(self, tmp_path, small_chunks):
        cache = filled(tmp_path, 2000)
        before = cache.info()
        n_evicted = cache.prune(before.used_bytes // 2)
        after = cache.info()
        assert after.used_bytes <= before.used_bytes // 2
        assert after.n_entries == 2000 - n_evicted == sum(found_right(cache, range(2000)))

    def test_prune_to_nothing_gives_the_disk_back(self, tmp_path):
        cache = filled(tmp_path, 2000)
        other = VectorCache(tmp_path / "cache")
        assert found_right(other, [1]) == [True]
        assert cache.prune(0) == 2000
        assert list((tmp_path / "cache").iterdir()) == []
        assert found_right(other, [1]) == [False]
        assert other.put(keys_of([1]), vectors_of([1])) == 1

    def test_a_full_map_is_made_room_in(self, tmp_path, monkeypatch):
        for module in (environment, file):
            monkeypatch.setattr(module, "map_bytes", lambda n_bytes: 1 << 20)
        cache = VectorCache(tmp_path)
        for begin in range(0, 50_000, 1000):
            numbers = range(begin, begin + 1000)
            assert cache.put(keys_of(numbers), vectors_of(numbers)) == 1000
        assert all(found_right(cache, range(49_000, 50_000)))
        assert not any(found_right(cache, range(1000)))

    def test_a_larger_bound_in_the_same_process(self, tmp_path):
        small = filled(tmp_path, max_bytes=1 << 20)
        large = VectorCache(tmp_path / "cache", max_bytes=1 << 28)
        numbers = range(100, 900)
        assert large.put(keys_of(numbers), vectors_of(numbers, 20_000)) == 800
        assert found_right(large, numbers, 20_000) == [True] * 800
        assert found_right(small, range(10)) == [True] * 10

    def test_a_bound_that_holds_nothing_is_refused(self):
        with pytest.raises(InputError, match="max_bytes=1000, but at least 1048576"):
            VectorCache(max_bytes=1000)


class TestFile:
    @pytest.mark.parametrize("kind", ["half", "garbage", "zeros", "few bytes"])
    def test_that_is_no_good_is_moved_aside(self, tmp_path, kind):
        cache = filled(tmp_path, 2000)
        cache.close()
        data = tmp_path / "cache" / "data.mdb"
        whole = data.read_bytes()
        changed = {
            "half": whole[: len(whole) // 2],
            "garbage": os.urandom(9999),
            "zeros": bytes(9999),
            "few bytes": b"x",
        }
        data.write_bytes(changed[kind])
        with pytest.warns(LLMFeatWarning, match=r"moved to data\.mdb\.corrupt-"):
            assert found_right(cache, range(3)) == [False] * 3
        assert filled(tmp_path).info().n_set_aside == 1
        [aside] = data.parent.glob("data.mdb.corrupt-*")
        assert aside.read_bytes() == changed[kind]

    def test_whose_pages_are_damaged_is_moved_aside_when_they_are_read(self, tmp_path):
        cache = filled(tmp_path, 2000)
        cache.close()
        with open(tmp_path / "cache" / "data.mdb", "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(8192)
            file.write(bytes(size - 8192))
        with pytest.warns(LLMFeatWarning, match="moved to"):
            assert found_right(cache, range(3)) == [False] * 3
        assert cache.put(keys_of([1]), vectors_of([1])) == 1

    def test_is_never_shorter_than_its_pages(self, tmp_path, small_chunks):
        """LMDB does not write pages at the end that a transaction took and gave back."""
        draw = np.random.default_rng(2)
        cache = VectorCache(tmp_path)
        for begin in range(0, 40_000, 400):
            numbers = range(begin, begin + int(draw.choice([1, 40, 400])))
            cache.put(keys_of(numbers), vectors_of(numbers))
            if draw.random() < 0.4:
                cache.prune(max(1, int(cache.info().used_bytes * draw.choice([0, 0.1, 0.5]))))
            assert not is_short(cache._environment._env, tmp_path)

    def test_of_another_program_is_left_alone(self, tmp_path):
        with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
            txn.put(b"its", b"own")
        cache = VectorCache(tmp_path)
        with pytest.warns(LLMFeatWarning, match="is of the format None"):
            assert found_right(cache, [1]) == [False]
        with pytest.raises(CacheError, match="pass another path"):
            cache.info()
        with lmdb.open(str(tmp_path)) as env, env.begin() as txn:
            assert txn.get(b"its") == b"own"

    def test_that_was_removed_under_an_open_cache_is_begun_anew(self, tmp_path):
        cache = filled(tmp_path)
        for path in (tmp_path / "cache").iterdir():
            path.unlink()
        assert found_right(cache, [1]) == [False]
        assert found_right(filled(tmp_path), [1]) == [True]

    def test_holds_no_text(self, tmp_path):
        texts = [f"a secret that nobody may read, number {number}" for number in range(200)]
        cache = VectorCache(tmp_path)
        cache.put(cache.keys(NAMESPACE, texts), vectors_of(range(200)))
        cache.close()
        held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert cache.keys(NAMESPACE, texts[:1])[0] in held
        assert b"secret" not in held
        assert "secret".encode("utf-16-le") not in held
        assert "secret".encode("utf-32-le") not in held

    def test_is_made_on_first_use(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path))
        cache = VectorCache()
        assert list(tmp_path.iterdir()) == []
        assert cache.put(keys_of([1]), vectors_of([1])) == 1
        assert (tmp_path / "vectors" / "data.mdb").is_file()


class TestFolder:
    """What is wrong with the folder is told once, and is no reason to fail."""

    @pytest.fixture
    def readonly(self, tmp_path, monkeypatch):
        filled(tmp_path).close()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        return VectorCache(tmp_path / "cache")

    def test_read_only_gives_what_is_there(self, readonly):
        assert found_right(readonly, range(12)) == [True] * 10 + [False] * 2
        assert readonly.info().readonly

    def test_read_only_takes_nothing_and_says_so_once(self, readonly):
        with pytest.warns(LLMFeatWarning, match="read-only") as told:
            assert [readonly.put(keys_of([11]), vectors_of([11])) for _ in range(3)] == [0, 0, 0]
        assert len(told) == 1

    def test_read_only_is_not_pruned(self, readonly):
        with pytest.raises(CacheError, match="make it writable"):
            readonly.prune(0)

    def test_read_only_is_verified(self, readonly, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda path, mode: True)
            flip(readonly, 250)
        assert [readonly.verify() for _ in range(2)] == [(10, 1)] * 2

    def test_read_only_and_locked_up_gives_what_is_there(self, readonly, monkeypatch):
        """As for a user who may not write the table of readers; to root, who runs tests, nothing is locked up."""
        start = lmdb.open

        def refuse(path, *, lock=True, **options):
            if lock:
                raise lmdb.Error(f"{path}: Permission denied")
            return start(path, lock=lock, **options)

        monkeypatch.setattr(lmdb, "open", refuse)
        assert found_right(readonly, range(10)) == [True] * 10

    def test_that_cannot_be_made_holds_nothing(self, tmp_path):
        (tmp_path / "file").write_text("x")
        cache = VectorCache(tmp_path / "file" / "cache")
        with pytest.warns(LLMFeatWarning, match="cannot be read .*Not a directory") as told:
            assert [found_right(cache, [1]) for _ in range(2)] == [[False], [False]]
        assert len(told) == 1
        with pytest.warns(LLMFeatWarning, match="cannot be written .*Not a directory"):
            assert cache.put(keys_of([1]), vectors_of([1])) == 0

    def test_on_a_full_disk_takes_nothing_until_there_is_space(self, tmp_path):
        cache = filled(tmp_path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # A write beyond this size fails in the middle of a commit, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "cache" / "data.mdb").stat().st_size + 8192, hard))
        try:
            with pytest.warns(LLMFeatWarning, match="free space on its disk") as told:
                written = [cache.put(keys_of(range(5000)), vectors_of(range(5000))) for _ in range(2)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (written, len(told)) == ([0, 0], 1)
        assert found_right(cache, range(12)) == [True] * 10 + [False] * 2
        assert cache.put(keys_of(range(5000)), vectors_of(range(5000))) == 4990
        assert found_right(cache, range(5000)) == [True] * 5000

    def test_whose_commit_fails_takes_nothing(self, tmp_path, monkeypatch):
        cache = filled(tmp_path)
        write = environment.Environment.writing

        @contextlib.contextmanager
        def full(self):
            with write(self) as txn:
                yield txn
                raise lmdb.DiskError("mdb_txn_commit: No space left on device")

        monkeypatch.setattr(environment.Environment, "writing", full)
        with pytest.warns(LLMFeatWarning, match="No space left"):
            assert cache.put(keys_of([11]), vectors_of([11])) == 0
        monkeypatch.undo()
        assert found_right(cache, range(12)) == [True] * 10 + [False] * 2


# What other processes run.


def write_many(path: str, n: int, max_bytes: int) -> None:
    cache = VectorCache(path, max_bytes=max_bytes)
    for begin in range(0, n, 100):
        cache.put(keys_of(range(begin, begin + 100)), vectors_of(range(begin, begin + 100)))


def read_many(path: str, n: int, n_found: multiprocessing.Queue) -> None:
    cache, found = VectorCache(path), 0
    until = time.monotonic() + 20
    while found < n and time.monotonic() < until:
        found = sum(found_right(cache, range(n)))
    n_found.put((found, cache.n_corrupt))


class TestProcesses:
    def test_many_read_while_one_writes(self, tmp_path):
        spawn = multiprocessing.get_context("spawn")
        n_found = spawn.Queue()
        readers = [spawn.Process(target=read_many, args=(str(tmp_path), 3000, n_found)) for _ in range(3)]
        writer = spawn.Process(target=write_many, args=(str(tmp_path), 3000, 1 << 25))
        for process in [*readers, writer]:
            process.start()
        assert [n_found.get(timeout=30) for _ in readers] == [(3000, 0)] * 3
        for process in [*readers, writer]:
            process.join()

    def test_a_larger_bound_in_another_process(self, tmp_path):
        cache = filled(tmp_path, max_bytes=1 << 20)
        code = (
            "import sys; from llmfeat.encode.cache import VectorCache; import tests.test_cache as test; "
            "numbers = range(100, 1100); "
            "print(VectorCache(sys.argv[1]).put(test.keys_of(numbers), test.vectors_of(numbers, 20_000)))"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "cache")], capture_output=True, text=True, check=True
        )
        assert run.stdout == "1000\n"
        assert found_right(cache, range(10)) == [True] * 10
        assert cache.put(keys_of([11]), vectors_of([11])) == 1

    def test_a_writer_that_is_killed_leaves_what_it_committed(self, tmp_path):
        code = (
            "import sys; import tests.test_cache as test; from llmfeat.encode.cache import VectorCache\n"
            "cache = VectorCache(sys.argv[1])\n"
            "for begin in range(0, 10**9, 1000):\n"
            "    numbers = range(begin, begin + 1000)\n"
            "    keys, vectors = test.keys_of(numbers), test.vectors_of(numbers)\n"
            "    print(begin, flush=True); cache.put(keys, vectors)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(20):
                begun = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        cache = VectorCache(tmp_path)
        there = found_right(cache, range(begun))
        assert all(there)
        assert cache.verify()[1] == 0
        assert cache.put(keys_of([-1]), vectors_of([-1])) == 1, "the lock went with the process"

    def test_a_fork_opens_its_own(self, tmp_path):
        """In a process of its own, and while another thread reads, whose transactions the child must not end."""
        code = (
            "import os, sys, threading; import tests.test_cache as test; from pathlib import Path\n"
            "cache = test.filled(Path(sys.argv[1]), 1000)\n"
            "done = threading.Event()\n"
            "def read():\n"
            "    while not done.is_set(): assert all(test.found_right(cache, range(1000)))\n"
            "thread = threading.Thread(target=read, daemon=True); thread.start()\n"
            "for number in range(20):\n"
            "    environment = cache._environment\n"
            "    child = os.fork()\n"
            "    if not child:\n"
            "        good = all(test.found_right(cache, range(1000))) and cache._environment is not environment\n"
            "        n = cache.put(test.keys_of([5000 + number]), test.vectors_of([5000 + number]))\n"
            "        os._exit(0 if good and n == 1 else 1)\n"
            "    assert os.waitpid(child, 0)[1] == 0\n"
            "done.set(); thread.join()\n"
            "print(sum(test.found_right(cache, range(5000, 5020))))\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )
        assert (run.stdout, run.stderr) == ("20\n", "")

    def test_threads_that_fork_at_once_do_not_wait_for_ever(self, tmp_path):
        code = (
            "import os, sys, threading; import tests.test_cache as test; from pathlib import Path\n"
            "cache = test.filled(Path(sys.argv[1]))\n"
            "sys.setswitchinterval(1e-6)  # what goes wrong once in a thousand forks goes wrong at once\n"
            "def fork():\n"
            "    for _ in range(60):\n"
            "        child = os.fork()\n"
            "        if not child: os._exit(0)\n"
            "        os.waitpid(child, 0)\n"
            "threads = [threading.Thread(target=fork, daemon=True) for _ in range(4)]\n"
            "for thread in threads: thread.start()\n"
            "for thread in threads: thread.join(10)\n"
            "print([thread.is_alive() for thread in threads], all(test.found_right(cache, range(10))))\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
        )
        assert (run.stdout, run.stderr) == ("[False, False, False, False] True\n", "")


class TestObject:
    def test_pickles_as_its_parameters(self, tmp_path):
        cache = filled(tmp_path, max_bytes=1 << 22)
        assert cache.__getstate__() == {"path": cache.path, "max_bytes": 1 << 22}
        assert found_right(pickle.loads(pickle.dumps(cache)), range(10)) == [True] * 10

    def test_two_share_a_folder_under_two_names(self, tmp_path):
        cache = filled(tmp_path)
        (tmp_path / "link").symlink_to(tmp_path / "cache")
        assert found_right(VectorCache(tmp_path / "link"), range(10)) == [True] * 10
        assert found_right(cache, range(10)) == [True] * 10

    def test_works_again_after_it_was_closed(self, tmp_path):
        cache = filled(tmp_path)
        cache.close()
        cache.close()
        assert found_right(cache, range(10)) == [True] * 10

    def test_threads_read_while_one_closes_and_one_writes(self, tmp_path):
        cache = filled(tmp_path, 1000)
        failed: list[BaseException] = []
        done = threading.Event()

        def work(step) -> None:
            try:
                while not done.is_set():
                    step()
            except BaseException as error:
                failed.append(error)

        numbers = iter(range(1000, 10**9))

        def write() -> None:
            number = next(numbers)
            cache.put(keys_of([number]), vectors_of([number]))

        def close() -> None:
            time.sleep(0.001)
            cache.close()

        steps = [lambda: found_right(cache, range(1000)), lambda: found_right(cache, [5]), write, close]
        threads = [threading.Thread(target=work, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        done.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert found_right(cache, range(1000)) == [True] * 1000

    def test_who_wants_to_be_alone_need_not_wait_for_those_who_come_later(self):
        gate, done = environment._Gate(), threading.Event()

        def come_and_go() -> None:
            while not done.is_set():
                with gate.shared():
                    time.sleep(0.005)

        threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(5)]
        for thread in threads:
            thread.start()
        n_alone = 0
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with gate.alone():
                assert not gate._n_inside
                n_alone += 1
        done.set()
        for thread in threads:
            thread.join()
        assert n_alone > 5


class TestCommand:
    def run(self, *arguments: str) -> str:
        result = CliRunner().invoke(cli, ["cache", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    def test_info(self, tmp_path):
        cache = filled(tmp_path, 2000)
        said = self.run("info", "--path", str(cache.path))
        assert said.splitlines()[:2] == [f"folder      {cache.path}", "vectors     2,000"]

    def test_info_as_json(self, tmp_path):
        cache = filled(tmp_path, 2000)
        expected = dataclasses.asdict(cache.info()) | {"path": str(cache.path)}
        del expected["max_bytes"]
        assert json.loads(self.run("info", "--json", "--path", str(cache.path))) == expected

    def test_prune_to_a_size(self, tmp_path, small_chunks):
        cache = filled(tmp_path, 2000)
        said = json.loads(self.run("prune", "--max-gb", "0.0001", "--json", "--path", str(cache.path)))
        assert said["used_bytes"] <= 100_000
        assert said["n_evicted"] == 2000 - said["n_entries"] > 0

    def test_prune_all(self, tmp_path):
        cache = filled(tmp_path, 2000)
        assert self.run("prune", "--all", "--path", str(cache.path)) == "2,000 vectors thrown out, 0 left (0.0 MB)\n"
        assert list(Path(cache.path).iterdir()) == []

    @pytest.mark.parametrize("arguments", [[], ["--all", "--max-gb", "1"], ["--max-gb", "0"]])
    def test_prune_needs_to_know_how_much_stays(self, arguments):
        assert CliRunner().invoke(cli, ["cache", "prune", *arguments]).exit_code == 2

    def test_verify(self, tmp_path):
        cache = filled(tmp_path)
        flip(cache, 250)
        assert self.run("verify", "--path", str(cache.path)) == "10 vectors checked, 1 corrupt and removed\n"
        said = json.loads(self.run("verify", "--json", "--path", str(cache.path)))
        assert said == {"n_checked": 9, "n_corrupt": 0, "n_removed": 0}

    def test_a_folder_without_a_cache_is_refused_and_left_alone(self, tmp_path):
        result = CliRunner().invoke(cli, ["cache", "info", "--path", str(tmp_path)])
        assert isinstance(result.exception, CacheError)
        assert list(tmp_path.iterdir()) == []

    def test_the_default_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path))
        assert json.loads(self.run("info", "--json"))["path"] == str(tmp_path / "vectors")
