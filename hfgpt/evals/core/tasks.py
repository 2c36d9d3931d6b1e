"""CORE as lm-eval sees it: a task for each label of the bundle, and the group with the mean of their centred scores.
Each example is scored as nanochat's `core_eval.py` scores it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.config.group import AggMetricConfig
from lm_eval.config.task import TaskConfig

from hfgpt.errors import UserError
from hfgpt.evals.core.bundle import Bundle, open_bundle
from hfgpt.evals.core.model_tokens import ModelTokens, model_tokens
from hfgpt.evals.core.prompts import fewshot_indices, prompts, shuffled
from hfgpt.evals.core.scored_tokens import ScoredTokens, scored_tokens

PREFIX = "core_"
logger = logging.getLogger("lm_eval.core")


class TokenRequest(Instance):
    """One option as tokens. lm-eval's models take (strings or None, context ids, continuation ids) where a task does
    not leave tokenization to them; without strings no cache of answers can take it for another request."""

    tokens: ScoredTokens

    def __getitem__(self, index: int) -> list[int] | None:
        return (None, self.tokens.context, self.tokens.continuation)[index]


class CoreTask(Task):
    """One task of CORE, `acc` and `centered`: 0 for guessing, 1 for all right.

    `metadata` says which bundle (`core_bundle`, a folder, zip or URL) and how many questions (`core_limit`; lm-eval's
    own limit does the same). Examples are drawn from the questions that the limit leaves.
    """

    OUTPUT_TYPE = "_loglikelihood_tokens"  # the method of the language model that answers; see TokenRequest

    def __init__(self, config: Mapping[str, Any], bundle: Bundle | None = None):
        """Raises UserError where the bundle has no data for this task."""
        # Not Task's own, which would read the config as that of a task that generates.
        self._metadata = dict(config.get("metadata") or {})
        self.bundle = bundle or open_bundle(self._metadata.get("core_bundle"))
        label = config["task"].removeprefix(PREFIX)
        if label not in self.bundle.tasks or label in self.bundle.missing:
            raise UserError(f"core_bundle: {self.bundle.folder} has no data for {config['task']}: leave it out.")
        self.spec = self.bundle.tasks[label]
        self.VERSION = self._metadata.get("version")
        self._config = TaskConfig(
            task=config["task"],
            output_type="multiple_choice",
            num_fewshot=self.spec.num_fewshot,
            # What can be written down; the tokenizer of a model in memory cannot.
            metadata={key: value for key, value in self._metadata.items() if isinstance(value, str | int | float)},
        )
        self._instances: list[TokenRequest] = []
        self._questions: list[dict[str, Any]] = []
        self._asked: dict[int, list[TokenRequest]] = {}  # by question

    @cached_property
    def docs(self) -> list[dict[str, Any]]:
        """The questions in the order in which they are asked, each with its `index`."""
        rows = shuffled(self.bundle.rows(self.spec.label))[: int(self._metadata.get("core_limit") or 0) or None]
        return [{"index": index, **row} for index, row in enumerate(rows)]

    def build_all_requests(self, *, limit: int | None = None, apply_chat_template: bool = False, **options) -> None:
        """lm-eval's, whose cache of requests is not used, for it does not know what tokenizer it was made with."""
        if apply_chat_template:
            raise UserError("CORE is asked as plain text: leave out apply_chat_template.")
        self._questions = self.docs[: limit or None]
        shots = self.config.num_fewshot
        if shots >= len(self._questions):
            raise UserError(
                f"{self.task_name} shows {shots} examples before each question, so the limit must be at least "
                f"{shots + 1}, not {len(self._questions)}."
            )
        super().build_all_requests(limit=limit, **{**options, "cache_requests": False})

    def construct_requests(self, doc, ctx, *, metadata, **kwargs) -> list[TokenRequest]:
        """One request for each option; none for an option that all others begin with, which has no token of its own
        to be scored."""
        requests = []
        for option, (strings, tokens) in enumerate(self.options(doc)):
            if tokens.context and tokens.continuation:
                request = TokenRequest(self.OUTPUT_TYPE, doc, arguments=strings, idx=option, metadata=metadata)
                request.tokens = tokens
                requests.append(request)
        if not requests:
            raise UserError(
                f"{self.task_name}: question {doc['index']} has nothing to be scored: its options are the same, or "
                "its continuation is empty."
            )
        self._asked[doc["index"]] = requests
        return requests

    def options(self, doc: dict[str, Any]) -> list[tuple[tuple[str, str], ScoredTokens]]:
        """Each option's (context, continuation) as text, and the tokens of the two joined that are scored."""
        others = fewshot_indices(doc["index"], len(self._questions), self.config.num_fewshot)
        texts = prompts(self.spec, doc, [self._questions[other] for other in others])
        whole = [context + continuation for context, continuation in texts]
        if self.spec.kind == "language_modeling":
            # Without the blanks at its end, which the first token of the continuation takes in.
            whole.insert(0, texts[0][0].strip())
        scored = scored_tokens(self.spec.kind, self._tokens(whole))
        return [(text, tokens.cropped(self._tokens.max_length)) for text, tokens in zip(texts, scored, strict=True)]

    @cached_property
    def _tokens(self) -> ModelTokens:
        return model_tokens(self._metadata)

    def apply_filters(self) -> None:
        """The mean loss per token of each option, in nats, and whether it is what greedy decoding gives."""
        for request in self.instances:
            log_probability, is_greedy = request.resps[0]
            mean_loss = -log_probability / len(request.tokens.continuation)
            request.filtered_resps["none"] = (mean_loss, is_greedy and not request.tokens.unscored)

    def process_results(self, doc, results) -> dict[str, float]:
        """Right is the option of the lowest mean loss, the first of equals; a language modelling question is answered
        right if greedy decoding gives the continuation."""
        if self.spec.kind == "language_modeling":
            right = results[0][1]
        else:
            losses = [math.nan] * len(self.doc_to_choice(doc))
            for request, (loss, _) in zip(self._asked[doc["index"]], results, strict=True):
                losses[request.idx] = loss
            right = losses.index(min(losses)) == doc["gold"]
        baseline = self.spec.baseline
        return {"acc": float(right), "centered": (right - baseline) / (1 - baseline)}

    def aggregation(self) -> dict[str, Callable]:
        return {"acc": mean, "centered": mean}

    def higher_is_better(self) -> dict[str, bool]:
        return {"acc": True, "centered": True}

    def doc_to_text(self, doc) -> str:
        """The question without examples."""
        if self.spec.kind == "schema":
            return doc["context_options"][doc["gold"]]
        return doc["query" if self.spec.kind == "multiple_choice" else "context"]

    def doc_to_choice(self, doc) -> list[str]:
        return doc["choices" if self.spec.kind == "multiple_choice" else "context_options"]

    def doc_to_target(self, doc) -> int | str:
        return doc["continuation"] if self.spec.kind == "language_modeling" else doc["gold"]

    def fewshot_context(self, doc, num_fewshot, **kwargs) -> str:
        return ""  # the options hold their examples

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return self.docs


class CoreGroup(Group):
    """`core`: the mean of the tasks' `centered`, each task counting the same. Tasks whose data the bundle lacks are
    left out of it, and then it says so: its results name them in `missing_tasks` and count them in `left_out`."""

    def __init__(self, config: Mapping[str, Any]):
        metadata = config.get("metadata") or {}
        bundle = open_bundle(metadata.get("core_bundle"))
        self.missing = bundle.missing
        labels = [label for label in bundle.tasks if label not in self.missing]
        if not labels:
            raise UserError(f"core_bundle: {bundle.folder / 'eval_data'} has no data for any task.")
        share = f" ({len(labels)} of {len(bundle.tasks)} tasks)" if self.missing else ""
        super().__init__(
            name=config["task"],
            alias=config["task"] + share,
            aggregate_metric_list=[AggMetricConfig(metric="centered", weight_by_size=False)],
            metadata={"version": metadata.get("version")},
        )
        for label in labels:
            self.add(CoreTask({**config, "task": PREFIX + label}, bundle))
        if self.missing:
            logger.warning(
                "%d of CORE's tasks are not in %s and are left out of its mean: %s",
                *(len(self.missing), bundle.folder, ", ".join(self.missing)),
            )

    def aggregate(self, task_metrics) -> dict[str, Any]:
        metrics: dict[str, Any] = dict(super().aggregate(task_metrics))
        if self.missing:
            metrics |= {"left_out,none": len(self.missing), "missing_tasks": self.missing}
        return metrics
