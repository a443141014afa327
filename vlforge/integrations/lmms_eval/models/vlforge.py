"""The class that lmms-eval makes for `--model vlforge`."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lmms_eval.api import instance
from lmms_eval.api.model import lmms

from vlforge.integrations.answering import Answerer, Ask
from vlforge.types import Loading, ModelError

_REPEAT = 1 << 32
"""Between the keys of one question asked again, so that its samples differ."""


class VLForge(lmms):
    """Any model folder that `vlforge chat` opens.

    `pretrained` (or `model`) is the folder; the rest is as in `vlforge eval run`. Answers
    depend neither on `batch_size` nor on the number of processes: sampling is keyed by the
    question. `until` is honoured, which most models of lmms-eval leave out.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        model: str = "",
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        template: str = "auto",
        precision: str = "fp32",
        quantise: str = "none",
        attention: str = "auto",
        device_map: str = "none",
    ):
        super().__init__()
        folder = pretrained or model
        if not folder:
            raise ModelError("--model_args names no model folder; give pretrained=FOLDER")
        self._device = device or "auto"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._join()
        wanted = str(batch_size or 1)
        size = int(wanted) if wanted.isdigit() else int(max_batch_size or 1)
        loading: Any = {"precision": precision, "quantise": quantise, "attention": attention}
        self.answerer = Answerer(
            str(folder),
            device=self._device,
            template=template,
            batch=size,
            loading=Loading(**loading, device_map=device_map),  # type: ignore[arg-type]
        )

    def _join(self) -> None:
        """One of several processes: its own device, and what gathers their answers."""
        from accelerate import Accelerator

        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        if self._device in ("auto", "cuda"):
            self._device = str(self.accelerator.device)

    @property
    def device(self) -> Any:
        """Where lmms-eval puts the numbers that its processes exchange."""
        return self.answerer.loaded.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One text per request, in the order given."""
        asks, settings = [], []
        seen: Counter[tuple[str, str, int]] = Counter()
        for request in requests:
            context, how, to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            key = int(doc_id) + _REPEAT * seen[task, split, doc_id]
            seen[task, split, doc_id] += 1
            asks.append(_ask(context, to_visual, doc, key))
            settings.append(how)
        texts = self.answerer.answers(asks, settings)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args[:2], text)
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """(loss, is greedy) per request; a loss as lmms-eval's own models give: lower is better."""
        asks, texts = [], []
        for request in requests:
            context, to_target, to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            asks.append(_ask(context, to_visual, doc, int(doc_id)))
            texts.append(to_target if isinstance(to_target, str) else str(to_target(doc)))
        return [_as_result(pair) for pair in self.answerer.losses(asks, texts)]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """What each task collects over its rounds, in the order given."""
        return [self._rounds(*request.args) for request in requests]

    def _rounds(
        self,
        context: str,
        how: dict[str, Any],
        to_visual: Callable[[Any], Any],
        to_text: Callable[..., Any],
        doc_id: int,
        task: str,
        split: str,
    ) -> Any:
        doc = self.task_dict[task][split][doc_id]
        ask = _ask(context, to_visual, doc, int(doc_id))
        said: list[Any] = []
        carried = None
        for number in itertools.count(1):
            said = [*said, *self.answerer.answers([ask], [how])]
            visuals, text, is_over, told, carried = to_text(
                doc, previous_output=said, round_idx=number, previous_round_info=carried
            )
            if is_over:
                return told
            said = list(told)
            pictures = tuple(_pictures(visuals))
            ask = Ask((("user", str(text)),), pictures, int(doc_id))


def _ask(context: Any, to_visual: Callable[[Any], Any], doc: Any, key: int) -> Ask:
    words = context[0] if isinstance(context, list) else context
    return Ask((("user", str(words)),), tuple(_pictures(to_visual(doc))), key)


def _as_result(pair: tuple[float, bool]) -> Any:
    """The pair in a form that reaches the task: lmms-eval 0.7 turns a bare one into text."""
    unwrap = getattr(instance, "unwrap_generation_output", None)
    if unwrap is None or unwrap(pair)[0] == pair:
        return pair
    return instance.GenerationResult(pair)


def _pictures(visuals: Any) -> Iterable[Any]:
    """The pictures of a document, lists in lists laid flat.

    Raises:
        ModelError: sound or video, which these models do not take.
    """
    if visuals is None:
        return
    if isinstance(visuals, list | tuple):
        for one in visuals:
            yield from _pictures(one)
        return
    if isinstance(visuals, str) or hasattr(visuals, "convert"):
        yield visuals
        return
    raise ModelError(f"the task shows a {type(visuals).__name__}; only pictures can be shown")
