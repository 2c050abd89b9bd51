"""Columns that are there under another name: what an error should propose."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from llmfeat.errors import MissingColumnError

__all__ = ["closest_name", "missing_column"]

# Names that data sets in the open give to what an option asks for, in the order in which they are believed.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "--user-id": (
        *("user", "uid", "customer_id", "visitor_id", "member_id", "account_id", "reviewer_id", "profile_id"),
        *("person_id", "client_id", "buyer_id", "session_id"),
    ),
    "--item-id": (
        *("item", "iid", "product_id", "movie_id", "parent_asin", "asin", "article_id", "sku", "stock_code", "id"),
        *("news_id", "book_id", "isbn", "track_id", "song_id", "video_id", "business_id", "recipe_id", "game_id"),
    ),
    "--timestamp": (
        *("ts", "time", "datetime", "event_time", "date", "unix_review_time", "created_at", "event_timestamp"),
        *("unix_timestamp", "review_time", "invoice_date", "t_dat", "time_stamp"),
    ),
    "--label": ("click", "clicked", "is_click", "is_clicked", "target", "y", "liked"),
    "--rating": ("stars", "score", "overall", "rate", "review_rating", "value"),
    "--split-column": ("fold", "subset", "set", "partition"),
    "--history-column": ("history", "history_item_ids", "hist", "item_history", "sequence", "clicked_history"),
    "--group-id": ("session_id", "impression_id", "query_id", "slate_id", "request_id"),
    "--baseline-score": ("score", "prediction", "pred", "model_score"),
    "--text": ("title", "name", "description", "text", "product_name", "headline"),
}
# "user_id" and "usr_id" are alike, "user_id" and "item_id" are not.
_ALIKE = 0.75


def closest_name(wanted: str, columns: Sequence[str], *, option: str | None = None) -> str | None:
    """Return the column that most likely is the wanted one, None where none is like it.

    Examples
    --------
    >>> closest_name("user_id", ["UserID", "movieId"]), closest_name("timestamp", ["ts"], option="--timestamp")
    ('UserID', 'ts')
    """
    by_plain = {_plain(name): name for name in reversed(columns)}
    near = difflib.get_close_matches(_plain(wanted), by_plain, n=1, cutoff=_ALIKE)
    others = (_plain(name) for name in _OTHER_NAMES.get(option or "", ()))
    found = next((plain for plain in (*near, *others) if plain in by_plain), None)
    return None if found is None else by_plain[found]


def missing_column(
    missing: Sequence[tuple[str, str]], columns: Sequence[str], *, what: str, taken: Sequence[str] = ()
) -> MissingColumnError:
    """Return the error for columns that are not there.

    Parameters
    ----------
    missing : sequence of (option, name)
        What was asked for, and by which option.
    columns : sequence of str
        What is there.
    what : str
        What has the columns.
    taken : sequence of str, default=()
        Columns that mean something else already.
    """
    free = [name for name in columns if name not in taken]
    mends, lost = [], []
    for option, name in missing:
        found = closest_name(name, free, option=option)
        if found is not None and option == "--template":
            lost.append(f"write {{{found}}} instead of {{{name}}} in the template")
        elif found is None:
            lost.append(f"name the column that holds it with {option}, or add it")
        else:
            free.remove(found)
            mends.append(f"{option} {found}")
    needed = ", ".join(repr(name) for _, name in missing)
    todo = "; ".join([*(["pass " + " ".join(mends)] if mends else []), *dict.fromkeys(lost)])
    return MissingColumnError(
        f"{what} has the columns {list(columns)} but {needed} {'is' if len(missing) == 1 else 'are'} needed: {todo}"
    )


def _plain(name: str) -> str:
    """Return a name without case, underscores and what else spellings differ in."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
