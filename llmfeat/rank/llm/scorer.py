"""`LLMScorer`: would this user like this item? Asked of a causal language model, answered by probabilities."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import column, id_column
from llmfeat.artifact import ModelArtifact
from llmfeat.encode import VectorCache
from llmfeat.encode.lm import Answers, PromptScorer
from llmfeat.errors import InputError, LLMFeatWarning, TableFingerprintError
from llmfeat.export import Lora
from llmfeat.features._item_texts import item_texts
from llmfeat.features._opened import opened, share_opened
from llmfeat.features._rows import LogEstimator
from llmfeat.features._text_events import TextEvents
from llmfeat.rank.groups import Groups, mean_ndcg
from llmfeat.rank.llm.budget import LLMRanking, best_first, merged
from llmfeat.rank.llm.calibrate import Calibrator, check_calibration
from llmfeat.rank.llm.prompts import LabelledPrompts, Prompts, PromptWriter, usual_prompt
from llmfeat.rank.llm.tuning import finetuned, held_out_rows
from llmfeat.text import ItemTemplate, PreferencePrompt
from llmfeat.types import Float32Array, Float64Array

__all__ = ["LLMScorer"]


class LLMScorer(LogEstimator):
    """Ranks candidates by how much more probable a language model finds it that the user likes them than not.

    Each row of user, item and time becomes a prompt: what the user liked and disliked strictly before that time, and
    the candidate. Its score is log P(yes) - log P(no) of the one token after the prompt; nothing is generated, and no
    text is parsed. What the prompts of a user have in common is computed once.

    `fit` learns a calibrator, and with `finetune` the model itself. Without labels (``fit(X)``), or with
    ``calibration=None``, the scores are the model's own: zero-shot.

    Parameters
    ----------
    log : InteractionLog
        The events. It may reach past the rows: each row sees only what is strictly earlier than itself.
    artifact : str, Path, ModelArtifact or PromptScorer
        A model that was exported with ``kind="scorer"``, or its folder.
    items : data frame or mapping of ids to texts
        The items' texts: a frame with the column `item_id`, one row per item, or a mapping, where None is no text.
    item_template : ItemTemplate or str, optional
        How a row of such a frame becomes a text.
    prompt : PreferencePrompt, optional
        What is asked; ``PreferencePrompt.by_example`` with the answers by default.
    answers : Answers, optional
        The words that mean yes, and those that mean no.
    calibration : {"logistic", "monotone"} or None, default="logistic"
        What `fit` learns on top of the scores: see `Calibrator`. A model that is worse than chance is turned round.
    finetune : {"lora"}, Lora or None, default=None
        Whether, and how, `fit` adapts the model; needs the extra ``llm`` and the weights that were exported. A tenth of
        the users are held out, for early stopping and for the calibrator.
    finetune_out : str or Path, optional
        Where the adapted model goes; by default into the user's cache, where the same data find it again.
    base_score : str or object, optional
        The score of a cheaper ranker: a column of the rows, or a fitted ranker whose `predict` takes the rows.
    top_n : int, optional
        Ask the model for the best so many candidates of each group by `base_score` only; the rest keep their order,
        below these.
    budget_ms : float, optional
        Milliseconds for each group: no run begins that would not end in time, as far as earlier ones tell. Candidates
        that are best by `base_score` come first; those that are left keep its order, below. See `rank`.
    group : str, optional
        The column of a row's group, such as its request; by default `user_id`.
    history_lag_s : float, default=0
        Seconds by which events reach the prompts late, in training and serving alike.
    user_id, item_id, timestamp : str
        The columns of the rows.
    random_state : int, default=0
        Of fine-tuning, and of which users are held out.
    cache : VectorCache, bool, str or Path, optional
        Where scores are kept, by model, answers and prompt, as vectors are; none by default.
    backend, threads, batch_tokens
        As in `PromptScorer`.
    verbose : bool, default=False
        Whether to show progress on standard error, when that is a terminal, and the lines of fine-tuning.

    Attributes
    ----------
    calibrator_ : Calibrator or None
        What was learned on top of the scores.
    artifact_ : ModelArtifact
        The model that scores: `artifact`, or the one that was made of it.
    fingerprint_ : str
        Its fingerprint; `predict` refuses another.
    epochs_ : list of dict
        What each epoch of fine-tuning gave; empty without.
    n_dropped_ : int
        Items of histories that had no room in the prompts of the fitted rows.
    prompt_ : PreferencePrompt
        What is asked.
    item_ids_, item_texts_ : pyarrow.Array
        The items, and their texts, null where one has none.

    Examples
    --------
    >>> from llmfeat import LLMScorer  # doctest: +SKIP
    >>> scorer = LLMScorer(log, "artifacts/scorer", movies, item_template="{title}[ ({year})]", cache=True)
    ... # doctest: +SKIP
    >>> scorer.fit(train, train_labels).predict(candidates)  # doctest: +SKIP
    """

    def __init__(
        self,
        log: Any = None,
        artifact: PromptScorer | ModelArtifact | str | Path | None = None,
        items: Any = None,
        *,
        item_template: ItemTemplate | str | None = None,
        prompt: PreferencePrompt | None = None,
        answers: Answers | None = None,
        calibration: str | None = "logistic",
        finetune: str | Lora | None = None,
        finetune_out: str | Path | None = None,
        base_score: Any = None,
        top_n: int | None = None,
        budget_ms: float | None = None,
        group: str | None = None,
        history_lag_s: float = 0,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
        random_state: int = 0,
        cache: VectorCache | bool | str | Path | None = None,
        backend: str = "auto",
        threads: int | None = None,
        batch_tokens: int = 4096,
        verbose: bool = False,
    ) -> None:
        self.log = log
        self.artifact = artifact
        self.items = items
        self.item_template = item_template
        self.prompt = prompt
        self.answers = answers
        self.calibration = calibration
        self.finetune = finetune
        self.finetune_out = finetune_out
        self.base_score = base_score
        self.top_n = top_n
        self.budget_ms = budget_ms
        self.group = group
        self.history_lag_s = history_lag_s
        self.user_id = user_id
        self.item_id = item_id
        self.timestamp = timestamp
        self.random_state = random_state
        self.cache = cache
        self.backend = backend
        self.threads = threads
        self.batch_tokens = batch_tokens
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, eval_set: Any = None) -> Self:
        """Render the items, and learn the calibrator, and the model where it is to be adapted.

        Parameters
        ----------
        X : data frame
            Rows of user, item and time, in any order.
        y : array-like of shape (n_rows,), optional
            1 where the user liked the item, else 0. Without it nothing is learned.
        eval_set : (X, y), optional
            Rows of other users, for early stopping and for the calibrator, in place of a tenth of the users of `X`.

        Raises
        ------
        InputError
            When a parameter, the items, `X` or `y` cannot be worked with.
        NothingToLearnError
            When all labels are the same.
        ArtifactError, BackendError, ExportError
            When the model cannot be used, run or adapted.
        """
        super().fit(X, y)
        base = self._given()
        self.artifact_ = base.artifact
        self.fingerprint_ = base.artifact.fingerprint
        self.item_ids_, self.item_texts_ = item_texts(
            self.items, self.item_template, item_id=self.item_id, truncate=base.tokenizer.truncate
        )
        self.calibrator_: Calibrator | None = None
        self.epochs_: list[dict[str, float]] = []
        self.n_dropped_ = 0
        if y is None:
            if self.finetune is not None:
                raise InputError("finetune was asked for and no labels came: pass y, 0 or 1 for each row")
            self._writer(base)  # says what does not fit before the first request
            return self
        prompts = self._prompts(X)
        self._warn_dropped(prompts)
        rows = LabelledPrompts.of(prompts, y)
        held_out = None if eval_set is None else LabelledPrompts.of(self._prompts(eval_set[0]), eval_set[1])
        if self.finetune is not None:
            if held_out is None:
                held = held_out_rows(id_column(X, self.user_id, what="X"), seed=self.random_state)
                rows, held_out = (LabelledPrompts.of(prompts, y, keep=keep) for keep in (~held, held))
            self.artifact_, self.epochs_ = finetuned(
                base,
                rows,
                held_out,
                lora=self.finetune if isinstance(self.finetune, Lora) else Lora(),
                seed=self.random_state,
                out=self.finetune_out,
                verbose=self.verbose,
            )
            self.fingerprint_ = self.artifact_.fingerprint
        if self.calibration is not None:
            known = held_out or rows  # what a model was adapted to, it knows too well
            scores = self._asked(known.texts, known.special, None)
            self.calibrator_ = Calibrator(self.calibration).fit(scores, known.labels)
        return self

    def predict(self, X: Any, groups: Any = None) -> Float64Array:
        """Return a score of each row to rank by within its group, float64 of shape ``(n_rows,)``; see `rank`.

        Warns where the budget, or candidates without a text, left rows without the model's score.
        """
        ranking = self.rank(X, groups)
        if ranking.degraded:
            n_left = int((~ranking.is_scored).sum())
            warnings.warn(
                f"{n_left} of {len(ranking.scores)} rows were ranked without the model "
                f"({', '.join(ranking.degraded)}): they stand below the others, in the cheaper ranker's order",
                LLMFeatWarning,
                stacklevel=2,
            )
        return ranking.scores

    def rank(self, X: Any, groups: Any = None) -> LLMRanking:
        """Return the scores of rows, and how they came about.

        Parameters
        ----------
        X : data frame
            Rows of user, item and time, in any order.
        groups : sequence, array or column of ids, optional
            The group of each row, in place of the column `group`. Ranks are within groups; a budget and `top_n` are
            of each.

        Returns
        -------
        LLMRanking
            Every row has a score. Rows that the model was not asked about stand below those of their group that it was
            asked about, in the order of `base_score`, or as they came.

        Raises
        ------
        TableFingerprintError
            When the model is not the one that was fitted with.
        """
        started = time.perf_counter()
        check_is_fitted(self)
        prompts = self._prompts(X)
        n_rows = len(prompts.texts)
        ids = groups if groups is not None else id_column(X, self.group or self.user_id, what="X")
        grouped = Groups.of(ids)
        if len(grouped.order) != n_rows:
            raise InputError(f"{len(grouped.order)} groups came for {n_rows} rows: pass one a row")
        base = self._base(X, n_rows)
        usable = prompts.is_usable
        chosen = [rows[usable[rows]] for rows in best_first(grouped, base, self.top_n)]
        log_odds = np.full(n_rows, np.nan, dtype=np.float32)
        if self.budget_ms is None:
            rows = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
            log_odds[rows] = self._asked(prompts.take(rows), prompts.special, None)
        else:
            spent = time.perf_counter() - started  # writing the prompts is a part of the first request's time
            for rows in chosen:
                budget_s = max(0.0, self.budget_ms / 1e3 - spent)
                log_odds[rows] = self._asked(prompts.take(rows), prompts.special, budget_s)
                spent = 0.0
        is_scored = ~np.isnan(log_odds)
        decision = log_odds.astype(np.float64) if self.calibrator_ is None else self.calibrator_.decision(log_odds)
        n_chosen = sum(map(len, chosen))
        reasons = {"time": int(is_scored.sum()) < n_chosen, "text": not usable.all()}
        return LLMRanking(
            scores=merged(grouped, decision, base),
            log_odds=log_odds,
            is_scored=is_scored,
            n_dropped=prompts.n_dropped,
            degraded=tuple(name for name, is_so in reasons.items() if is_so),
            elapsed_ms=(time.perf_counter() - started) * 1e3,
        )

    def predict_proba(self, X: Any) -> Float64Array:
        """Return the calibrated probabilities of 0 and 1, float64 of shape ``(n_rows, 2)``.

        Every row is asked, whatever `top_n` and `budget_ms`; a candidate without a text has NaN.
        """
        check_is_fitted(self)
        if self.calibrator_ is None:
            raise InputError("nothing was calibrated: fit with labels and a calibration, or take log_odds")
        positive = self.calibrator_.probability(self.log_odds(X))
        return np.stack([1 - positive, positive], axis=1)

    def log_odds(self, X: Any) -> Float32Array:
        """Return log P(yes) - log P(no) of each row as the model says, float32; NaN for candidates without a text."""
        check_is_fitted(self)
        prompts = self._prompts(X)
        rows = np.flatnonzero(prompts.is_usable)
        found = np.full(len(prompts.texts), np.nan, dtype=np.float32)
        found[rows] = self._asked(prompts.take(rows), prompts.special, None)
        return found

    def decision_function(self, X: Any) -> Float64Array:
        """Return calibrated log-odds where a calibrator was learned, else `log_odds`, float64; NaN without a text."""
        found = self.log_odds(X)
        return found.astype(np.float64) if self.calibrator_ is None else self.calibrator_.decision(found)

    def score(self, X: Any, y: Any) -> float:
        """Return the mean NDCG at 10 of the groups of `X`; see `mean_ndcg`."""
        return mean_ndcg(y, self.predict(X), id_column(X, self.group or self.user_id, what="X"))

    def _asked(self, texts: list[str], special: bool, budget_s: float | None) -> Float32Array:
        return self._fitted().scores(texts, special=special, budget_s=budget_s, progress=self.verbose)

    def _prompts(self, X: Any) -> Prompts:
        rows = self._rows(X)
        return self._writer(self._fitted()).write(rows, self._events())

    def _events(self) -> TextEvents:
        log = self._fitted_log()
        prepared = _PREPARED.get(self)
        if prepared is None or not prepared.is_of(log, self.item_texts_, False):
            prepared = _PREPARED[self] = TextEvents.of(log, self.item_ids_, self.item_texts_, False)
        return prepared

    @property
    def prompt_(self) -> PreferencePrompt:
        """What is asked: `prompt`, or the usual one of the answers."""
        check_is_fitted(self)
        return self._prompt(self._fitted())

    def _prompt(self, scorer: PromptScorer) -> PreferencePrompt:
        return self.prompt or usual_prompt(scorer)

    def _writer(self, scorer: PromptScorer) -> PromptWriter:
        made = _WRITERS.get(self)
        prompt = self._prompt(scorer)
        key = (scorer.artifact.fingerprint, prompt.fingerprint)
        if made is None or made[0] != key or made[1].item_texts is not self.item_texts_:
            made = _WRITERS[self] = key, PromptWriter(scorer, prompt, self.item_ids_, self.item_texts_)
        return made[1]

    def _base(self, X: Any, n_rows: int) -> Float64Array | None:
        """Return the cheaper ranker's score of each row."""
        if self.base_score is None:
            return None
        found = (
            column(X, self.base_score, what="X").to_numpy(zero_copy_only=False)
            if isinstance(self.base_score, str)
            else self.base_score.predict(X)
        )
        scores = np.asarray(found, dtype=np.float64)
        if scores.shape != (n_rows,) or np.isnan(scores).any():
            raise InputError(
                f"base_score gives {scores.shape} with {int(np.isnan(scores).sum())} NaN, but a number for each of "
                f"{n_rows} rows was expected"
            )
        return scores

    def _given(self) -> PromptScorer:
        """Return the scorer of the parameters."""
        if isinstance(self.artifact, PromptScorer):
            given = [name for name, value in self._options().items() if value != _UNSET[name]]
            if given:
                raise InputError(
                    f"artifact is a PromptScorer and {given} was passed too, but it has its own: set it there"
                )
            return self.artifact
        if not isinstance(self.artifact, ModelArtifact | str | Path):
            raise InputError(
                f"artifact={self.artifact!r}, but the folder of an exported model, a ModelArtifact or a PromptScorer "
                "was expected: run `llmfeat export MODEL --kind scorer --out DIR`, and pass DIR"
            )
        return self._opened(self.artifact)

    def _fitted(self) -> PromptScorer:
        """Return the scorer of the fitted model, or raise where it is another now."""
        scorer = self._opened(self.artifact_) if self.epochs_ else self._given()
        if scorer.artifact.fingerprint != self.fingerprint_:
            raise TableFingerprintError(
                f"{scorer.artifact.path} holds the model {scorer.artifact.fingerprint[:12]!r}, but the scorer was "
                f"fitted with {self.fingerprint_[:12]!r}: pass the artifact that it was fitted with, or refit"
            )
        return scorer

    def _opened(self, artifact: ModelArtifact | str | Path) -> PromptScorer:
        # An adapted model is opened as the one that it was made of.
        options = self._options(self.artifact if isinstance(self.artifact, PromptScorer) else self)
        of = (artifact.path, artifact.fingerprint) if isinstance(artifact, ModelArtifact) else artifact
        return opened(self, tuple(map(repr, (of, options))), lambda: PromptScorer(artifact, **options))

    def _options(self, of: Any = None) -> dict[str, Any]:
        """Return what this, or a `PromptScorer`, opens a model with."""
        return {name: getattr(of or self, name) for name in _UNSET}

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_calibration(self.calibration)
        if not (self.finetune in (None, "lora") or isinstance(self.finetune, Lora)):
            raise InputError(f"finetune={self.finetune!r}, but 'lora', a Lora(...) or None was expected")
        for name, value in (("prompt", self.prompt), ("answers", self.answers)):
            kind = {"prompt": PreferencePrompt, "answers": Answers}[name]
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{name} is a {type(value).__name__}, but {kind.__name__}(...) or None was expected")
        if self.top_n is not None and not (isinstance(self.top_n, int) and self.top_n >= 1):
            raise InputError(f"top_n={self.top_n!r}, but a whole number from 1 on, or None, was expected")
        if self.budget_ms is not None and not self.budget_ms > 0:
            raise InputError(f"budget_ms={self.budget_ms!r}, but more than 0, or None, was expected")
        if self.base_score is None and self.top_n is not None:
            raise InputError(
                f"top_n={self.top_n} asks for the best of a cheaper ranker, but base_score is None: name the column of "
                "its score, or pass the ranker"
            )
        if not (self.base_score is None or isinstance(self.base_score, str) or hasattr(self.base_score, "predict")):
            raise InputError(f"base_score={self.base_score!r}, but a column or a fitted ranker was expected")

    def _warn_dropped(self, prompts: Prompts) -> None:
        self.n_dropped_ = int(prompts.n_dropped.sum())
        n_rows = int((prompts.n_dropped > 0).sum())
        if n_rows:
            warnings.warn(
                f"{n_rows} of {len(prompts.texts)} prompts had no room for all items of the history, "
                f"{self.n_dropped_} of which were left out, the oldest: lower max_items or item_tokens of the prompt, "
                "or export the model with more max_tokens",
                LLMFeatWarning,
                stacklevel=3,
            )

    def __sklearn_clone__(self) -> Self:
        """Return a clone that shares the open model, and the cheaper ranker, which is fitted."""
        fresh: Any = super().__sklearn_clone__()
        if isinstance(self.artifact, PromptScorer):
            fresh.artifact = self.artifact
        fresh.base_score = self.base_score
        share_opened(fresh, self)
        return fresh  # type: ignore[no-any-return]


# What a `PromptScorer` is opened with, and what stands for "not passed".
_UNSET: Mapping[str, Any] = {
    "answers": None,
    "backend": "auto",
    "threads": None,
    "batch_tokens": 4096,
    "cache": None,
}
# Made once per estimator: beside it, not in it, since they follow from what it holds and need not be pickled.
_PREPARED: weakref.WeakKeyDictionary[LLMScorer, TextEvents] = weakref.WeakKeyDictionary()
_WRITERS: weakref.WeakKeyDictionary[LLMScorer, tuple[tuple[str, str], PromptWriter]] = weakref.WeakKeyDictionary()
