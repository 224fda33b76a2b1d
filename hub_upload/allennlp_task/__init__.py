"""Conversion of AllenNLP's complete task models around an `Elmo`: taggers (`crf_tagger`) and classifiers (`bcn`)."""

from ..allennlp.plain import from_allennlp
from ..allennlp.rules import fix_mixes
from ..common.format import Format
from .reader import TaskSource, accept, make_plan, make_tokenizer, open_place, parameters, plain_task

FORMAT = Format(
    open=open_place,
    make_plan=make_plan,
    make_tokenizer=make_tokenizer,
    plain=lambda source, read, epsilon: from_allennlp(set(source.tensors), read, source.options),
    complete=fix_mixes,
    needs_vocabulary=lambda source: "a task model looks words up in its own vocabulary",
    model=lambda source, plan: source.task.model if isinstance(source, TaskSource) else None,
    parameters=parameters,
    accept=accept,
    plain_task=plain_task,
)
