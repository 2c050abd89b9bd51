"""`probe_offline`: whether the offline store of a repository loses rows, found out by asking it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.encode.manifest import Manifest
from llmfeat.encode.table import latest_rows
from llmfeat.errors import StoreConfigError
from llmfeat.store.config import RepoSources
from llmfeat.store.repo import open_store
from llmfeat.store.views import VECTOR, view_name

__all__ = ["OfflineProbe", "probe_offline"]

_N_ITEMS, _N_REPEATS = 5, 4
_LOOKED_AT = 1000  # items, among which some have a text


@dataclass(frozen=True)
class OfflineProbe:
    """What came back of the rows that were sent.

    Attributes
    ----------
    store : str
        The type of the offline store.
    cases : dict of str to (int, int, int)
        Of each case: rows sent, rows that came back, rows with another value than the table has.
    """

    store: str
    cases: dict[str, tuple[int, int, int]]

    @property
    def loses(self) -> list[str]:
        """The cases of which not every row came back as it is."""
        return [name for name, (sent, back, wrong) in self.cases.items() if back != sent or wrong]

    @property
    def reason(self) -> str:
        """What it did, in words."""
        said = [
            f"{name}: {back} of {sent} rows came back" + (f", {wrong} with another value" if wrong else "")
            for name, (sent, back, wrong) in self.cases.items()
            if name in self.loses
        ]
        return "; ".join(said) or "every row came back"


def probe_offline(repo: str | Path, *, fingerprint: str | None = None) -> OfflineProbe:
    """Send slates, ties and doubled rows through the offline store that is configured, and count what comes back.

    A slate is several items of one moment; rows tie when they ask for one item at one moment, as those of several users
    do; doubled rows are the same in every column. Each must come back once, with the vector that the table has.

    Parameters
    ----------
    repo : str or Path
        The applied repository, whose table has an item with a text.
    fingerprint : str, optional
        The generation that is asked for; the current one by default.

    Raises
    ------
    StoreConfigError
        When the repository has no view of it, or no item has a vector.
    """
    pandas = import_optional("pandas", purpose="Feast's historical retrieval")
    folder = RepoSources.read(repo).items
    generation = Manifest.read(folder).generation(fingerprint, where=folder)
    store = open_store(repo)
    name = view_name(generation.fingerprint)
    if name not in {view.name for view in store.list_feature_views()}:
        raise StoreConfigError(f"{repo} has no view {name!r}: run `feast apply`, then probe")
    rows = latest_rows(folder, generation, ["item_id", VECTOR, "valid_from"], most=_LOOKED_AT)
    rows = rows.filter(rows.column(VECTOR).is_valid()).slice(0, _N_ITEMS)
    if not len(rows):
        raise StoreConfigError(
            f"none of the first items of {folder} has a vector, but one is needed: encode some texts, then probe"
        )
    expected = dict(zip(rows.column("item_id").to_pylist(), rows.column(VECTOR).to_pylist(), strict=True))
    ids = list(expected)
    # Later than all of them; whole seconds, which every store keeps.
    moment = pandas.Timestamp(rows.column("valid_from").to_numpy().max(), tz="UTC").ceil("s") + pandas.Timedelta("1s")
    several = len(ids) * _N_REPEATS
    none, each = np.zeros(several), np.repeat(np.arange(_N_REPEATS), len(ids))
    # Ids, seconds after the moment, and a column that tells rows apart, as a user's id or a label does.
    sent = {
        "slates": (ids * _N_REPEATS, each, np.arange(several)),
        "ties": ([ids[0]] * several, none, np.arange(several)),
        "doubled rows": (ids * _N_REPEATS, none, none),
    }
    cases = {}
    for case, (items, seconds, marks) in sent.items():
        moments = moment + pandas.to_timedelta(seconds, unit="s")
        frame = pandas.DataFrame({"item_id": items, "event_timestamp": moments, "mark": marks})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Feast's own making
            answer: Any = store.get_historical_features(entity_df=frame, features=[f"{name}:{VECTOR}"]).to_arrow()
        cells = zip(answer.column("item_id").to_pylist(), answer.column(VECTOR).to_pylist(), strict=True)
        n_wrong = sum(bytes(cell or b"") != expected.get(key) for key, cell in cells)
        cases[case] = (several, len(answer), n_wrong)
    return OfflineProbe(str(store.config.offline_store.type), cases)
