"""Fine-tuning of task models: options, readers of labeled data, layer cache, Trainer with its checkpoints, reports.

The scripts in `examples/` are built on it. It needs the packages of `pip install "elmo-hf[train]"`. A script looks
like this:

    model_args, data_args, args = parse(argv, TaggerArguments, TagArguments, TaskTrainingArguments)
    config, keeps_head = load_config(model_args, ElmoForTokenClassification)
    splits, labels = data_args.read(args, labels_of(config) if keeps_head else None)
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of_tagged)
    model = load_model(model_args, ElmoForTokenClassification, config, tokenizer, keeps_head)
    trainer = TaskTrainer(model, args, data_args.encode(splits, tokenizer, labels), ...)
    metrics, prediction = run_stages(trainer, run_record(model, splits, labels, (model_args, data_args, args)))
"""

try:
    from elmo_hf.fields import option

    from .comparison import Comparison, Run, folder_name
    from .files import CorpusError, read_json, read_lines, read_records, write_lines
    from .layer_cache import cache_layers
    from .options import (
        BilmArguments,
        ClassifierArguments,
        ModelArguments,
        TaggerArguments,
        TaskTrainingArguments,
        parse,
        run,
    )
    from .pairs import Pair, PairArguments, PairColumns, read_pair_dataset, read_pairs
    from .questions import (
        Question,
        QuestionArguments,
        QuestionColumns,
        encode_questions,
        read_question_dataset,
        read_questions,
        words_of_questions,
    )
    from .record import check_continues, run_record
    from .report import plot_training_curve, write_figure
    from .splits import SourceArguments, SplitArguments
    from .start import labels_of, load_config, load_model, load_tokenizer, set_labels
    from .tags import (
        IGNORED_LABEL,
        Sentence,
        TagArguments,
        TagColumns,
        encode_tagged,
        is_well_formed,
        read_tagged,
        read_tagged_dataset,
        tag_scheme,
        tag_set,
        windows,
        words_of_tagged,
    )
    from .texts import (
        Text,
        TextArguments,
        TextColumns,
        encode_texts,
        label_names,
        read_text_dataset,
        read_texts,
        words_of_texts,
    )
    from .training import CheckpointError, TaskTrainer, make_optimizer, parameter_groups, run_stages, warn_of_one_class
    from .translation import (
        TranslationTrainingArguments,
        TranslatorArguments,
        TranslatorTrainer,
        by_length,
        check_translator,
        encode_pairs,
        load_or_make_translator,
        texts_of,
        train_target_tokenizer,
    )
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("elmo_hf"):
        raise
    raise ImportError(f"{__name__} needs {error.name}: pip install 'elmo-hf[train]'") from error
