"""The interaction log: made of frames, of parquet and of histories; saved, opened and cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llmfeat._base.frames import require_rows
from llmfeat._base.ids import ids_as_bytes, ids_of_bytes
from llmfeat._base.rows import open_rows
from llmfeat._base.rows.parquet import ParquetRows
from llmfeat.errors import InputError
from llmfeat.history.events import WHAT, EventColumns, Events, IdCodes, batches_of, gather_events
from llmfeat.history.histories import history_events
from llmfeat.history.index import AsOfIndex, LabelDelay
from llmfeat.history.sorted import SortedEvents
from llmfeat.history.storage import StoredLog, read_stored, write_stored
from llmfeat.types import Float32Array, Int32Array, Int64Array

__all__ = ["InteractionLog"]


@dataclass(frozen=True, eq=False)
class InteractionLog(SortedEvents):
    """Interactions of users with items, sorted by user and time; immutable.

    Build one with `from_frame`, `from_parquet` or `from_histories`; `save` it, and any number of processes that `open`
    it share one copy in memory. Copies and clones of estimators share it too.

    It holds 20 bytes an event, 8 a user and the texts of the distinct ids. `by_item` and `by_time` add 4 bytes an event
    each, `by_pair` 4 and 16 for each distinct pair, once they are asked for.

    Attributes
    ----------
    user_ids, item_ids : pyarrow.StringArray
        The distinct ids; a code is a position in them.
    user_codes, item_codes : ndarray of shape (n_events,), int32
        Who and what, sorted by user, then time, then the order of the input.
    times_us : ndarray of shape (n_events,), int64
        Microseconds since the epoch, UTC.
    labels : ndarray of shape (n_events,), float32
        1 for a positive, 0 for a negative event.
    by_user : AsOfIndex
        The events grouped by user: the order that they are in.
    label_delay : LabelDelay
        When labels become known; at once by default.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat import InteractionLog
    >>> events = pa.table(
    ...     {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [10**9 + 60, 10**9, 10**9]}
    ... )
    >>> log = InteractionLog.from_frame(events)
    >>> log.item_ids.take(pa.array(log.item_codes[log.as_of("u", (10**9 + 61) * 10**6)])).to_pylist()
    ['b', 'a']
    >>> log.as_of("u", 10**9 * 10**6).tolist()  # strictly earlier
    []
    """

    _home: tuple[str, str] | None = field(default=None, repr=False)  # folder and fingerprint of a log that was opened

    @classmethod
    def from_frame(
        cls,
        data: Any,
        *,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
        label: str | None = None,
        rating: str | None = None,
        like_threshold: float = 4.0,
        available_after_s: float = 0,
    ) -> Self:
        """Build a log from a pandas, polars or Arrow frame of one row per event, in any order.

        Parameters
        ----------
        data : data frame
            The events.
        user_id, item_id, timestamp : str
            The columns of that meaning; times as datetimes or epochs (s, ms, us).
        label : str, optional
            A column of 0 and 1.
        rating : str, optional
            A column of ratings, positive from `like_threshold` on. Without either, every event is a positive.
        like_threshold : float, default=4.0
            The least rating that counts as liked.
        available_after_s : float, default=0
            Seconds from an event to its label: an event is seen at once, and until then nobody knows how it ended, as
            with a purchase some days after a click. What features refresh late is a lag of theirs, which adds to it.

        Raises
        ------
        MissingColumnError, EmptyInputError, TimestampError, InputError
            When a column is missing, there is no row, a time or an id is null, or labels are not 0 and 1.
        """
        delay = _label_delay(available_after_s)
        columns = EventColumns(user_id, item_id, timestamp, label, rating, like_threshold)
        events = gather_events([data], columns)
        events.own()
        return cls._of_events(events, delay)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        *,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
        label: str | None = None,
        rating: str | None = None,
        like_threshold: float = 4.0,
        available_after_s: float = 0,
        batch_rows: int = 1 << 20,
    ) -> Self:
        """Build a log from a parquet file, or a folder of them, read in batches: only the columns that it needs.

        At most some 60 bytes an event are held on the way, beside the distinct ids and a batch.

        Parameters
        ----------
        path : str or Path
            The file or the folder.
        user_id, item_id, timestamp, label, rating, like_threshold, available_after_s
            See `from_frame`, whose log this is, bit for bit.
        batch_rows : int, default=1048576
            How many rows are read at once.

        Raises
        ------
        MissingColumnError, EmptyInputError, TimestampError, InputError
            As `from_frame`, and when the file is damaged or changes while it is read.
        """
        delay = _label_delay(available_after_s)
        columns = EventColumns(user_id, item_id, timestamp, label, rating, like_threshold)
        source = open_rows(path, what=WHAT)
        if not isinstance(source, ParquetRows):
            raise InputError(
                f"{WHAT} is {str(path)[:200]!r}, but the path of parquet was expected: "
                "read other files into a frame, for InteractionLog.from_frame(...)"
            )
        events = gather_events(batches_of(source, columns, batch_rows=batch_rows), columns)
        pa.default_memory_pool().release_unused()  # Arrow keeps what the batches took, and sorting needs room
        return cls._of_events(events, delay)

    @classmethod
    def from_histories(
        cls,
        data: Any,
        *,
        row_id: str | None = None,
        history: str = "history_item_ids",
        labels: str | None = None,
        timestamps: str | None = None,
    ) -> Self:
        """Build a log from rows that bring their own history: each row is a user of its own.

        For a request that carries what its user did, and for data without times. `HistoryFeatures` with ``row_id`` for
        a user id, and `HISTORY_AS_OF_US` for a timestamp where the histories have no times, sees the row's own history
        and nothing of another row's. What is counted over all users, as the popularity of an item is, mixes the rows.

        Parameters
        ----------
        data : data frame
            The rows.
        row_id : str, optional
            A column of distinct ids; by default the number of the row, from 0.
        history : str, default="history_item_ids"
            A column of lists of item ids, oldest first. A row with an empty list, or null, has no event, and its id is
            unknown to the log like any other.
        labels : str, optional
            A column of lists of 0 and 1, one for each item; without, every event is a positive.
        timestamps : str, optional
            A column of lists of times, one for each item; without, the last event is a microsecond before
            `HISTORY_AS_OF_US`, the one before it another microsecond earlier, and so on.

        Raises
        ------
        MissingColumnError, DuplicateIdError, TimestampError, InputError
            When a column is missing or holds no lists, an id within is null, two rows have one id, or lists that
            belong together are of different lengths.

        Examples
        --------
        >>> import pyarrow as pa
        >>> from llmfeat import InteractionLog
        >>> from llmfeat.history import HISTORY_AS_OF_US
        >>> log = InteractionLog.from_histories(pa.table({"history_item_ids": [["a", "b"], None, ["b"]]}))
        >>> [len(log.as_of(row, HISTORY_AS_OF_US)) for row in (0, 1, 2)]
        [2, 0, 1]
        """
        events, offsets = history_events(data, row_id=row_id, history=history, labels=labels, timestamps=timestamps)
        if timestamps is not None:
            return cls._of_events(events, LabelDelay())
        return cls._of_sorted(events, offsets, LabelDelay())

    @classmethod
    def from_arrays(
        cls,
        users: pa.StringArray,
        items: pa.StringArray,
        times_us: Int64Array,
        labels: Float32Array,
        *,
        available_after_s: float = 0,
    ) -> Self:
        """Build a log from checked arrays, one entry per event, in any order."""
        codes = []
        for ids in (users, items):
            distinct = IdCodes()
            distinct.add(ids)
            codes.append(distinct.finish())
        (user_ids, user_codes), (item_ids, item_codes) = codes
        # Copies: sorting does not copy what comes in order, and that would change with the caller's arrays.
        events = Events(user_ids, item_ids, user_codes, item_codes, times_us.copy(), labels.copy())
        return cls._of_events(events, _label_delay(available_after_s))

    @classmethod
    def _of_events(cls, events: Events, delay: LabelDelay) -> Self:
        index = AsOfIndex(events.user_codes, events.times_us, len(events.user_ids))
        events.sort(index)
        return cls._of_sorted(events, index.offsets, delay)

    @classmethod
    def _of_sorted(
        cls, events: Events, offsets: Int64Array, delay: LabelDelay, home: tuple[str, str] | None = None
    ) -> Self:
        arrays = (events.user_codes, events.item_codes, events.times_us, events.labels)
        for values in (*arrays, offsets):
            values.setflags(write=False)
        by_user = AsOfIndex.of_sorted(offsets, events.times_us)
        return cls(events.user_ids, events.item_ids, *arrays, by_user, delay, home)

    @classmethod
    def open(cls, folder: str | Path, *, in_memory: bool = False) -> Self:
        """Open a saved log in milliseconds: its arrays stay on disk, and processes share what of them is in memory.

        Every file is hashed when it is new to this user and machine, or was touched; then only its size and times are
        looked at. A log that was opened is pickled as its path, and each worker opens the folder again.

        Parameters
        ----------
        folder : str or Path
            Where `save` put it.
        in_memory : bool, default=False
            Whether everything is read now. Such a log is pickled whole, and needs its folder no more.

        Raises
        ------
        InputError
            When there is no log, it is of another schema, or a file is not the one that was written.
        """
        path = Path(folder).resolve()
        stored, fingerprint = read_stored(path, in_memory=in_memory)
        arrays = stored.arrays
        events = Events(
            stored.ids["user_ids"],
            stored.ids["item_ids"],
            arrays["user_codes"],
            arrays["item_codes"],
            arrays["times_us"],
            arrays["labels"],
        )
        delay = LabelDelay(stored.properties["available_after_us"] or 0, stored.properties["cut_us"])
        home = None if in_memory else (str(path), fingerprint)
        return cls._of_sorted(events, arrays["user_offsets"], delay, home)

    def save(self, folder: str | Path) -> None:
        """Write the log into a folder, in one step; a log that was there is replaced.

        Those who have the old one open keep it, but workers that are sent it will not find it any more.

        Raises
        ------
        InputError
            When the folder holds something else.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "user_codes": self.user_codes,
            "item_codes": self.item_codes,
            "times_us": self.times_us,
            "labels": self.labels,
            "user_offsets": self.by_user.offsets,
        }
        delay = self.label_delay
        properties = {"available_after_us": delay.available_after_us, "cut_us": delay.cut_us}
        write_stored(
            StoredLog(arrays, {"user_ids": self.user_ids, "item_ids": self.item_ids}, properties), Path(folder)
        )

    def until(self, time_us: int, *, labelled: bool = False) -> Self:
        """Return the log of what was known at `time_us`: the events strictly before it.

        Labels that had not arrived by then stay unknown to `labelled_windows`, whatever moment is asked for.

        Parameters
        ----------
        time_us : int
            Microseconds since the epoch, UTC.
        labelled : bool, default=False
            Whether events without their label are left out, for those who read `labels` as a whole.
        """
        delay = self.label_delay.cut(time_us)
        end_us = int(delay.known_before(np.array([time_us]))[0]) if labelled else time_us
        keep = self.times_us < end_us
        require_rows(int(np.count_nonzero(keep)), what=f"the interaction log before {end_us} us")
        user_ids, user_codes = _compact(self.user_ids, self.user_codes[keep])
        item_ids, item_codes = _compact(self.item_ids, self.item_codes[keep])
        return self._of_events(
            Events(user_ids, item_ids, user_codes, item_codes, self.times_us[keep], self.labels[keep]), delay
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: it is immutable, and `sklearn.base.clone` would copy it for every fold."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the path of a log that was opened, else its arrays without what is derived from them."""
        if self._home is not None:
            return {"home": list(self._home)}
        arrays = {name: getattr(self, name) for name in ("user_codes", "item_codes", "times_us", "labels")}
        delay = [self.label_delay.available_after_us, self.label_delay.cut_us]
        ids = {name: ids_as_bytes(getattr(self, name)) for name in ("user_ids", "item_ids")}
        return {**arrays, **ids, "offsets": self.by_user.offsets, "label_delay": delay}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "home" in state:
            restored = self._reopen(*state["home"])
        else:
            arrays = (state[name] for name in ("user_codes", "item_codes", "times_us", "labels"))
            events = Events(ids_of_bytes(state["user_ids"]), ids_of_bytes(state["item_ids"]), *arrays)
            restored = self._of_sorted(events, state["offsets"], LabelDelay(*state["label_delay"]))
        vars(self).update(vars(restored))

    @classmethod
    def _reopen(cls, folder: str, fingerprint: str) -> Self:
        log = cls.open(folder)
        if log._home != (folder, fingerprint):
            raise InputError(
                f"{folder} holds another log than the one that was pickled by its path: save each log into a folder of "
                "its own, or open it with in_memory=True before pickling"
            )
        return log


def _label_delay(available_after_s: float) -> LabelDelay:
    seconds: object = available_after_s
    if not (isinstance(seconds, int | float | np.number) and 0 <= float(seconds) < np.inf):
        raise InputError(f"available_after_s={seconds!r}, but 0 or more seconds were expected")
    return LabelDelay(round(float(seconds) * 1e6))


def _compact(ids: pa.StringArray, codes: Int32Array) -> tuple[pa.StringArray, Int32Array]:
    """Return the ids that still have an event, by first appearance, and the codes for them."""
    encoded = pa.array(codes).dictionary_encode()
    return ids.take(encoded.dictionary), encoded.indices.to_numpy()
