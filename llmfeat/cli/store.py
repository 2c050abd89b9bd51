"""``llmfeat store``."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmfeat._base.progress import spinner

if TYPE_CHECKING:
    from llmfeat.store import RepoStatus

__all__ = ["command"]

_MOST_SHOWN = 10
_repo = click.argument("repo", type=click.Path(exists=True, file_okay=False, path_type=Path), default="feature_repo")
_repo_option = click.option(
    "--repo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("feature_repo"),
    show_default=True,
    help="The repository.",
)
_repo_option = click.option(
    "--repo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("feature_repo"),
    show_default=True,
    help="The repository.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@click.group("store")
def command() -> None:
    """Make a Feast repository, apply it, and check that it loses and mixes nothing.

    REPO is feature_repo by default. `llmfeat materialize` fills the online store.
    """


@command.command("init")
@click.argument("repo", type=click.Path(file_okay=False, path_type=Path), default="feature_repo")
@click.option("--redis", metavar="HOST:PORT", help="The online store.  [default: SQLite, in REPO/data]")
@click.option("--project", metavar="NAME", help="Feast's project, part of every online key.  [default: llmfeat]")
@click.option("--table", type=click.Path(path_type=Path), help="The vector table.  [default: REPO/data/item_vectors]")
@click.option("--log", type=click.Path(path_type=Path), help="A saved InteractionLog, for histories and popularity.")
@click.option("--max-events", type=click.IntRange(1, 10_000), help="Events of a history.  [default: 100]")
@click.option("--semantic-ids", type=click.Path(path_type=Path), help="A file of SemanticIds.save, for their codes.")
@click.option("--user-vectors", "users", type=click.Path(path_type=Path), help="A vector table of users.")
def init(repo: Path, **sources: Any) -> None:
    """Put a repository into REPO: feature_store.yaml, llmfeat.toml and definitions.py.

    Files that are there already stay as they are.
    """
    from llmfeat.store import init_repo
    from llmfeat.store.repo import TEMPLATE_FILES

    there = {name for name in TEMPLATE_FILES if (repo / name).exists()}
    init_repo(repo, **sources)
    for name in TEMPLATE_FILES:
        click.echo(f"{repo / name}{'  (kept as it was)' if name in there else ''}")


@command.command("apply")
@_repo
def apply(repo: Path) -> None:
    """Tell Feast what REPO defines; the same as `feast apply` there."""
    from llmfeat.store import apply_repo

    with spinner("feast apply"):
        said = apply_repo(repo)
    click.echo("\n".join(line for line in said.splitlines() if line.strip()))


@command.command("status")
@_repo
@_json
def status(repo: Path, as_json: bool) -> None:
    """Print what the views of REPO hold, since when, and which rankers they serve.

    Ends with status 1 when a view is behind its table, was never applied, or does not answer.
    """
    from llmfeat.store import status as store_status

    found = store_status(repo)
    if as_json:
        body = dataclasses.asdict(found)
        click.echo(json.dumps({**body, "repo": str(found.repo)}))
    else:
        _print_status(found)
    if any(view.needs_attention for view in found.views):
        sys.exit(1)


def _print_status(found: RepoStatus) -> None:
    click.echo(f"{found.repo}: online {found.online}, offline {found.offline}")
    width = max((len(view.view) for view in found.views), default=0)
    for view in found.views:
        if view.problem:
            said = view.problem
        elif not view.is_kept:
            said = "not current, and served by nobody: kept as it is"
        elif not view.is_applied:
            said = "not applied: llmfeat store apply"
        elif view.finished_us is None:
            said = "never materialized: llmfeat materialize"
        else:
            when = datetime.fromtimestamp(view.finished_us / 1e6, tz=UTC).isoformat(sep=" ", timespec="seconds")
            said = f"materialized {when}"
            said += f", {view.n_behind} parts behind: llmfeat materialize" if view.n_behind else ""
        served = f"  serves {', '.join(view.served_by)}" if view.served_by else ""
        click.echo(f"{view.view:<{width}}  {said}{served}")
    for name, bundle in found.rankers.items():
        click.echo(f"ranker {name}  bundle {bundle[:12]}")


@command.command("verify")
@_repo
@click.option("--sample", type=click.IntRange(min=1), default=1000, show_default=True, help="Ids of each view.")
@click.option("--all", "everything", is_flag=True, help="Every id.")
@click.option("--seed", type=int, help="Of the draw.  [default: another one at every call]")
@_json
def verify(repo: Path, sample: int, everything: bool, seed: int | None, as_json: bool) -> None:
    """Compare what REPO holds online with its tables and its log, byte for byte.

    Ends with status 1 when anything differs, and prints the ids.
    """
    from llmfeat.store import verify as store_verify

    checks = store_verify(repo, sample=None if everything else sample, seed=seed, progress=True)
    if as_json:
        click.echo(json.dumps({"views": [dataclasses.asdict(check) for check in checks]}))
    else:
        width = max((len(check.view) for check in checks), default=0)
        for check in checks:
            said = f"{check.n_compared:,} compared, {len(check.differing):,} differ"
            behind = f" ({check.n_behind} parts were never materialized)" if check.n_behind else ""
            click.echo(f"{check.view:<{width}}  {said}{behind}")
            for key in check.differing[:_MOST_SHOWN]:
                click.echo(f"  {key}")
            if len(check.differing) > _MOST_SHOWN:
                click.echo(f"  and {len(check.differing) - _MOST_SHOWN:,} more: --json has them all")
    if any(check.differing for check in checks):
        sys.exit(1)


@command.command("probe")
@_repo
@_json
def probe(repo: Path, as_json: bool) -> None:
    """Send slates, ties and doubled rows through REPO's offline store, and say whether it loses any.

    Ends with status 1 when it does.
    """
    from llmfeat.store import probe_offline

    with spinner("asking the offline store"):
        found = probe_offline(repo)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "loses": found.loses}))
    else:
        for case, (sent, back, wrong) in found.cases.items():
            click.echo(f"{case:<14}{sent} sent, {back} came back, {wrong} with another value")
        click.echo(f"{found.store}: {'LOSES ROWS' if found.loses else 'every row came back'}")
    if found.loses:
        sys.exit(1)


@command.command("register")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_repo
def register(bundle: Path, repo: Path) -> None:
    """Serve the ranker in BUNDLE: its vectors are kept fresh and not pruned, and Feast gets a feature service."""
    from llmfeat.rank.serving import RankerBundle, register_ranker

    path = register_ranker(RankerBundle.load(bundle), repo)
    click.echo(f"{path}: run llmfeat store apply {repo}, then llmfeat materialize {repo}")


@command.command("unregister")
@click.argument("name")
@_repo
def unregister(name: str, repo: Path) -> None:
    """Serve the ranker NAME no more: its vectors may be pruned when nothing else holds them."""
    from llmfeat.rank.serving import unregister_ranker

    unregister_ranker(name, repo)
    click.echo(f"{name} is served no more: run llmfeat store apply {repo}, then llmfeat encode ... --prune")


@command.command("forget")
@click.argument("user_ids", nargs=-1, required=True, metavar="USER...")
@_repo_option
def forget(user_ids: tuple[str, ...], repo: Path) -> None:
    """Remove the histories of users from the online store, at once. Remove them from the log, too."""
    from llmfeat.store import EventPusher

    EventPusher(repo).forget(list(user_ids))
    click.echo(f"{len(user_ids):,} users forgotten online; what the log holds comes back when it is materialized")


@command.command("replay")
@click.argument("requests", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="The ranker."
)
@_repo_option
@click.option(
    "--log", "log_folder", type=click.Path(exists=True, path_type=Path), help="[default: that of llmfeat.toml]"
)
@_json
def replay(requests: Path, bundle: Path, repo: Path, log_folder: Path | None, as_json: bool) -> None:
    """Compute the logged REQUESTS anew, offline, and compare them column by column with what was served.

    Ends with status 1 when a value has other bits, or nothing could be compared.
    """
    from llmfeat.errors import InputError
    from llmfeat.history import InteractionLog
    from llmfeat.rank.serving import RankerBundle
    from llmfeat.rank.serving import replay as replay_requests
    from llmfeat.store import RepoSources

    sources = RepoSources.read(repo)
    folder = log_folder or sources.log
    if folder is None:
        raise InputError(f"{repo} names no log, but features are computed of one: pass --log, or set histories.log")
    log = InteractionLog.open(folder)
    with spinner("computing the requests anew"):
        found = replay_requests(requests, RankerBundle.load(bundle), log=log, table=sources.items, repo=repo)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "is_equal": found.is_equal}))
    else:
        click.echo(f"{found.n_requests:,} requests, {found.n_rows:,} rows x {found.n_columns} columns compared")
        for what, count in (
            ("requests did without something, not compared", found.n_degraded),
            ("requests encoded a text of their own, not compared", found.n_encoded),
            ("requests of other rankers", found.n_other),
            ("rows whose text changed since, not compared", found.n_changed_rows),
        ):
            if count:
                click.echo(f"{count:,} {what}")
        for each in found.differences:
            said = f"{each.n_rows:,} rows differ, by {each.largest:g} at most, as in {each.request_ids[0]}"
            click.echo(f"{each.column}: {said}")
        if found.n_scores:
            click.echo(f"{found.n_scores:,} rows have another score, though no feature differs")
        click.echo("equal, bit for bit" if found.is_equal else "NOT EQUAL" if found.n_rows else "nothing was compared")
    if not found.is_equal:
        sys.exit(1)
