"""Running streams, compared with bilm-tf's batches and a transcription of its rules; resuming; several processes."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from elmo_hf import ElmoTokenizer
from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.corpus.word_encoder import WordEncoder
from elmo_hf.pretraining.streams import IGNORED_LABEL, SentenceStreams, StreamBatch
from modeling_tests.character_rows import character_ids_of_word

WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "dog", "sat", "ran", "on", "mat", "."]
TENSORS = (
    "forward_input_ids",
    "forward_character_ids",
    "forward_labels",
    "backward_input_ids",
    "backward_character_ids",
    "backward_labels",
)


@pytest.fixture(scope="module")
def tokenizer() -> ElmoTokenizer:
    return ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, pre_tokenization="whitespace")


def ids(text: str) -> list[int]:
    return [WORDS.index(word) + 1 if word in WORDS else WORDS.index("<UNK>") + 1 for word in text.split()]


def random_corpus(sentences: int, seed: int = 0, longest: int = 9) -> Corpus:
    """Sentences of distinct words, so that each word identifies its position."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, sentences)
    return Corpus.from_sentences(" ".join(f"w{s}.{w}" for w in range(n)) for s, n in enumerate(lengths))


def encoder_of(corpus: Corpus) -> WordEncoder:
    words = ["<pad>", "<S>", "</S>", "<UNK>", *dict.fromkeys(word for s in corpus for word in s.split()), "<mask>"]
    return WordEncoder({word: number for number, word in enumerate(words)}, max_characters_per_word=12)


def assert_equal(one: StreamBatch, other: StreamBatch) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (one.words, one.backward_words, one.starts_fresh) == (other.words, other.backward_words, other.starts_fresh)


def transcription(sentences: list[list[int]], rows: int, steps: int):
    """bilm-tf's `_get_batch` word by word: (inputs, targets) of (rows, steps), as long as every row can be filled."""
    generator = iter(sentences)
    waiting: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
    while True:
        inputs, targets = np.zeros((2, rows, steps), np.int64)
        for row in range(rows):
            for step in range(steps):
                while not waiting[row]:
                    sentence = next(generator, None)
                    if sentence is None:
                        return
                    waiting[row] = list(pairwise(sentence))
                inputs[row, step], targets[row, step] = waiting[row].pop(0)
        yield inputs, targets


# ---- bilm-tf's batches


def test_hand_worked_batches(tokenizer):
    """Two rows of three steps; the first sentence is longer than row 0, the others are in row 1."""
    corpus = Corpus.from_sentences(["the cat sat .", "dog ran", "the zebra", "on the mat"])
    first, second, tail = SentenceStreams(corpus, tokenizer, 2, 3, epochs=1, shuffle=False)
    assert first.forward_input_ids.tolist() == [ids("<S> the cat"), ids("<S> dog ran")]
    assert first.forward_labels.tolist() == [ids("the cat sat"), ids("dog ran </S>")]
    assert second.forward_input_ids.tolist() == [ids("sat . <S>"), ids("<S> on the")]
    assert second.forward_labels.tolist() == [ids(". </S> the"), ids("on the mat")]
    assert first.backward_input_ids.tolist() == [ids("</S> . sat"), ids("</S> ran dog")]
    assert first.backward_labels.tolist() == [ids(". sat cat"), ids("ran dog <S>")]
    assert second.backward_input_ids.tolist() == [ids("cat the </S>"), ids("</S> mat the")]
    assert second.backward_labels.tolist() == [ids("the <S> zebra"), ids("mat the on")]
    assert first.words == first.backward_words == second.words == second.backward_words == 6
    # bilm-tf drops the ends of the last two sentences.
    assert tail.forward_input_ids.tolist() == [[*ids("the zebra"), 0], [*ids("mat"), 0, 0]]
    assert tail.forward_labels.tolist() == [[*ids("zebra </S>"), -100], [*ids("</S>"), -100, -100]]
    assert tail.backward_input_ids.tolist() == [[*ids("zebra the"), 0], [*ids("on"), 0, 0]]
    assert tail.backward_labels.tolist() == [[*ids("the <S>"), -100], [*ids("<S>"), -100, -100]]
    assert tail.words == tail.backward_words == 3
    assert not any(batch.starts_fresh for batch in (first, second, tail))
    assert [batch.forward_starts.tolist() for batch in (first, second, tail)] == [
        [True] * 2,
        [False, True],
        [False] * 2,
    ]
    assert [batch.backward_starts.tolist() for batch in (first, second, tail)] == [
        [True] * 2,
        [False, True],
        [False] * 2,
    ]


def test_rows_say_whether_they_begin_with_a_sentence():
    corpus = random_corpus(200)
    streams = SentenceStreams(corpus, encoder_of(corpus), 5, 4, epochs=1, seed=2)
    bos, eos = (streams.encoder.word_ids[streams.encoder.slots([word])[0]] for word in ("<S>", "</S>"))
    seen = set()
    for batch in streams:
        assert batch.forward_starts.tolist() == (batch.forward_input_ids[:, 0] == bos).tolist()
        assert batch.backward_starts.tolist() == (batch.backward_input_ids[:, 0] == eos).tolist()
        seen |= {*batch.forward_starts.tolist(), *batch.backward_starts.tolist()}
    assert seen == {True, False}


def test_batches_of_bilm_tf_itself(reference):
    """The sentences found in the batches of a bilm-tf run give the same batches."""
    arrays = np.load(reference / "bilm_tf_training" / "batches.npz")
    sentences, vocabulary = sentences_of(arrays)
    encoder = WordEncoder(vocabulary, max_characters_per_word=arrays["0/tokens_characters"].shape[-1])
    streams = SentenceStreams(Corpus.from_sentences(sentences), encoder, 2, 10, epochs=1, shuffle=False)
    for number, batch in zip(range(3), streams):
        names = ("token_ids", "tokens_characters", "next_token_id")
        for ours, theirs in zip(TENSORS, (*names, *(f"{name}_reverse" for name in names)), strict=True):
            # Padding takes the id 0 of words and of characters here.
            np.testing.assert_array_equal(getattr(batch, ours).numpy(), arrays[f"{number}/{theirs}"] + 1, ours)


def sentences_of(arrays) -> tuple[list[str], dict[str, int]]:
    """The text of the reference's three batches, in the order in which the rows took the sentences.

    The middle of a sentence that the batches break off is not known, and not needed: it stays out.
    """
    vocabulary = {"<S>": 1, "</S>": 2, "<UNK>": 3}

    def pieces(way: str, first: int) -> dict[tuple[int, int, int], list[str]]:
        """Words after each boundary, by its batch, row and step."""
        found: dict[tuple[int, int, int], list[str]] = {}
        for row in range(2):
            for batch in range(3):
                for step, number in enumerate(arrays[f"{batch}/token_ids{way}"][row]):
                    characters = arrays[f"{batch}/tokens_characters{way}"][row, step].tolist()
                    if number == first:
                        here = found[batch, row, step] = []
                        continue
                    word = bytes(characters[1 : characters.index(259)]).decode()
                    here.append(word)
                    if number != 2:
                        assert vocabulary.setdefault(word, int(number) + 1) == number + 1
            # The last target is never an input, so only its id is known.
            last = int(arrays[f"2/next_token_id{way}"][row, -1]) + 1
            spelt = next((word for word, known in vocabulary.items() if known == last), f"?{last}")
            here.append(spelt)
            vocabulary[spelt] = last
        return found

    forward, backward = pieces("", 0), pieces("_reverse", 1)
    assert forward.keys() == backward.keys()
    sentences = []
    for place in sorted(forward):
        start, end = forward[place], backward[place][::-1]
        # The last sentences of the rows are incomplete.
        broken = place == max(other for other in forward if other[1] == place[1])
        sentences.append(" ".join(start + end if broken else start))
    return sentences, vocabulary


@pytest.mark.parametrize(("sentences", "rows", "steps"), [(40, 1, 1), (40, 3, 4), (61, 5, 7), (30, 2, 50), (9, 8, 3)])
def test_batches_equal_a_plain_implementation(sentences, rows, steps):
    corpus = random_corpus(sentences)
    encoder = encoder_of(corpus)
    numbered = [encoder.encode(["<S>", *s.split(), "</S>"])[0].tolist() for s in corpus]
    batches = list(SentenceStreams(corpus, encoder, rows, steps, epochs=1, shuffle=False))
    forward = list(transcription(numbered, rows, steps))
    backward = list(transcription([sentence[::-1] for sentence in numbered], rows, steps))
    assert len(forward) == len(backward) <= len(batches)
    for batch, (inputs, targets), (reverse_inputs, reverse_targets) in zip(batches, forward, backward):
        np.testing.assert_array_equal(batch.forward_input_ids, inputs)
        np.testing.assert_array_equal(batch.forward_labels, targets)
        np.testing.assert_array_equal(batch.backward_input_ids, reverse_inputs)
        np.testing.assert_array_equal(batch.backward_labels, reverse_targets)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_target_of_an_epoch_is_given_once(independent, shuffle):
    corpus = random_corpus(70, longest=15)
    encoder = encoder_of(corpus)
    expected = Counter(number for s in corpus for number in encoder.encode(s.split())[0].tolist())
    streams = SentenceStreams(
        corpus, encoder, 6, 5, epochs=3, shuffle=shuffle, shuffle_window=16, sentence_independent=independent
    )
    seen = {"forward": Counter(), "backward": Counter()}
    words = 0
    for batch in streams:
        words += batch.words
        for way, counter in seen.items():
            inputs, labels = getattr(batch, f"{way}_input_ids"), getattr(batch, f"{way}_labels")
            assert torch.equal(inputs == 0, labels == IGNORED_LABEL)
            assert torch.equal(inputs == 0, (getattr(batch, f"{way}_character_ids") == 0).all(-1))
            assert (inputs.ne(0).long().diff(dim=1) <= 0).all(), "padding stands at the end of rows"
            counter.update(labels[labels >= 0].tolist())
    for way, boundary in (("forward", "</S>"), ("backward", "<S>")):
        assert seen[way] == Counter({number: 3 * n for number, n in expected.items()}) + Counter(
            {int(encoder.encode([boundary])[0][0]): 3 * 70}
        )
    assert words == streams.words == seen["forward"].total()
    assert streams.epoch == 2


def test_directions_and_epochs_are_shuffled_independently():
    corpus = random_corpus(200, longest=1)
    encoder = encoder_of(corpus)
    streams = SentenceStreams(corpus, encoder, 1, 400, seed=3)
    first, second = next(streams), next(streams)
    orders = [
        labels[0, ::2].tolist() for labels in (first.forward_labels, first.backward_labels, second.forward_labels)
    ]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert_equal(first, next(SentenceStreams(corpus, encoder, 1, 400, seed=3)))
    assert not torch.equal(first.forward_labels, next(SentenceStreams(corpus, encoder, 1, 400, seed=4)).forward_labels)


# ---- words and characters


def test_ids_and_characters_equal_the_tokenizer(tokenizer):
    """Unknown, long and non-ASCII words, and words spelled like special tokens."""
    text = "the caterpillars <UNK> <pad> <mask> naïve 漢字漢字 \U0001f600 </S> <S> dog"
    batch = next(SentenceStreams(Corpus.from_sentences([text]), tokenizer, 1, 12, epochs=1))
    encoding = tokenizer(text, return_tensors="pt")
    assert torch.equal(batch.forward_character_ids.long(), encoding["character_ids"][:, :-1])
    expected = encoding["input_ids"].clone()
    for token in (tokenizer.pad_token_id, tokenizer.mask_token_id):
        expected[expected == token] = tokenizer.unk_token_id  # never a target
    assert torch.equal(batch.forward_input_ids, expected[:, :-1])
    assert torch.equal(batch.forward_labels, expected[:, 1:])
    assert torch.equal(batch.backward_labels, expected.flip(1)[:, 1:])
    assert batch.forward_character_ids.dtype == torch.int16
    assert batch.forward_character_ids[0, 1].tolist() == character_ids_of_word("the", 9)


def test_raw_text_is_split_as_the_tokenizer_splits_it():
    quotes = {"\u201c": '"', "\u2019": "'"}
    raw = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, character_replacements=quotes)
    text = "The cat (Mary\u2019s) didn't sit on the \u201cmat."
    batch = next(SentenceStreams(Corpus.from_sentences([text]), raw, 1, 15, epochs=1, pre_tokenization="ptb"))
    encoding = raw(text, return_tensors="pt")
    assert encoding["input_ids"].shape[1] == 16
    assert torch.equal(batch.forward_character_ids.long(), encoding["character_ids"][:, :-1])
    streams = SentenceStreams(Corpus.from_sentences([text]), raw, 1, 9, epochs=1, pre_tokenization="whitespace")
    assert next(streams).words == 9
    # By default, as the lines of a corpus.
    assert next(SentenceStreams(Corpus.from_sentences([text]), raw, 1, 9, epochs=1)).words == 9
    corpus_of_raw_lines = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, corpus_pre_tokenization="ptb")
    assert next(SentenceStreams(Corpus.from_sentences([text]), corpus_of_raw_lines, 1, 15, epochs=1)).words == 15


def test_word_input_models_need_no_characters(tokenizer):
    batch = next(SentenceStreams(Corpus.from_sentences(["the cat"]), tokenizer, 1, 3, character_ids=False))
    assert batch.forward_character_ids is None
    assert batch.to("cpu").backward_character_ids is None
    assert batch.forward_input_ids.tolist() == [ids("<S> the cat")]


# ---- sentence-independent batches


def test_independent_batches_hold_one_sentence_a_row_in_both_directions():
    corpus = random_corpus(64, longest=30)
    encoder = encoder_of(corpus)
    padding = 0
    for batch in SentenceStreams(corpus, encoder, 4, 31, epochs=1, sentence_independent=True):
        assert batch.starts_fresh
        assert batch.words == batch.backward_words
        padding += int((batch.forward_input_ids == 0).sum())
        for row in range(4):
            forward = batch.forward_input_ids[row][batch.forward_input_ids[row] != 0].tolist()
            backward = batch.backward_input_ids[row][batch.backward_input_ids[row] != 0].tolist()
            assert forward[0] == 1
            assert backward[0] == 2
            assert forward[1:] == backward[:0:-1]
    # Sorted by length: far fewer than the thousand or so positions that batches at random would waste.
    assert padding < 150


def test_a_long_independent_sentence_is_cut_and_nothing_lost():
    words = [f"w{n}" for n in range(10)]
    encoder = encoder_of(Corpus.from_sentences([" ".join(words)]))
    corpus = Corpus.from_sentences([" ".join(words), "w0"])
    first, second = SentenceStreams(corpus, encoder, 2, 4, epochs=1, sentence_independent=True, shuffle=False)
    expected = encoder.encode([*words, "</S>"])[0].tolist()
    assert [*first.forward_labels.flatten().tolist(), *second.forward_labels[0].tolist()][:11] == expected
    expected = encoder.encode([*words[::-1], "<S>"])[0].tolist()
    assert [*first.backward_labels.flatten().tolist(), *second.backward_labels[0].tolist()][:11] == expected


# ---- several processes


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("num_processes", [2, 3])
def test_rows_are_divided_among_processes(independent, num_processes):
    corpus = random_corpus(100)
    encoder = encoder_of(corpus)
    options = {"seed": 5, "epochs": 2, "shuffle_window": 30, "sentence_independent": independent}
    whole = list(SentenceStreams(corpus, encoder, 2 * num_processes, 6, **options))
    parts = [
        list(SentenceStreams(corpus, encoder, 2, 6, process_index=p, num_processes=num_processes, **options))
        for p in range(num_processes)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for expected, *shares in zip(whole, *parts, strict=True):
        for name in TENSORS:
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(expected, name))
        assert sum(share.words for share in shares) == expected.words


# ---- resuming


@pytest.mark.slow
@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_resumes_at_every_position_bit_for_bit(independent, shuffle, tmp_path):
    """Positions saved as JSON, in the middle of sentences, windows, shards and epochs."""
    corpus = random_corpus(90)
    encoder = encoder_of(corpus)
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{sentence}\n" for sentence in corpus))

    def streams() -> SentenceStreams:
        return SentenceStreams(
            open_corpus(path, shard_bytes=700),
            encoder,
            5,
            8,
            epochs=2,
            shuffle=shuffle,
            shuffle_window=17,
            sentence_independent=independent,
        )

    running = streams()
    assert len(running.corpus.shards) > 3
    states, batches = [json.dumps(running.state_dict())], []
    for batch in running:
        batches.append(batch)
        states.append(json.dumps(running.state_dict()))
    assert len(batches) > 20
    for number, state in enumerate(states):
        resumed = streams()
        resumed.load_state_dict(json.loads(state))
        assert json.dumps(resumed.state_dict()) == state
        for expected in batches[number : number + 3]:
            assert_equal(next(resumed), expected)
        assert resumed.batches == min(number + 3, len(batches))
    assert next(resumed, None) is None
    running.reset()
    for expected in batches:
        assert_equal(next(running), expected)


def test_another_number_of_processes_continues():
    corpus = random_corpus(60)
    encoder = encoder_of(corpus)
    one = SentenceStreams(corpus, encoder, 4, 5, seed=1)
    for _ in range(7):
        next(one)
    state = one.state_dict()
    expected = next(one)
    for process in range(2):
        other = SentenceStreams(corpus, encoder, 2, 5, seed=1, process_index=process, num_processes=2)
        assert other.settings == one.settings
        other.load_state_dict(state)
        batch = next(other)
        assert torch.equal(batch.forward_labels, expected.forward_labels[2 * process : 2 * process + 2])
        assert other.words == one.words


def test_a_run_can_be_extended_by_epochs():
    corpus = random_corpus(30)
    encoder = encoder_of(corpus)
    short = SentenceStreams(corpus, encoder, 2, 5, epochs=1)
    for _ in short:
        pass
    longer = SentenceStreams(corpus, encoder, 2, 5, epochs=2)
    longer.load_state_dict(short.state_dict())
    assert sum(batch.words for batch in longer) == short.words


def test_a_state_of_other_settings_is_refused(tokenizer):
    corpus = random_corpus(20)
    state = SentenceStreams(corpus, tokenizer, 2, 5, seed=1).state_dict()
    with pytest.raises(
        ValueError, match=r"seed was 1 and is 2; .*Resume with the same|steps was 5 and is 6; seed was 1"
    ):
        SentenceStreams(corpus, tokenizer, 2, 6, seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"corpus was '\w+' and is"):
        SentenceStreams(random_corpus(21), tokenizer, 2, 5, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="version 0: expected 1"):
        SentenceStreams(corpus, tokenizer, 2, 5, seed=1).load_state_dict({**state, "version": 0})


def test_the_state_is_small_however_large_the_corpus():
    sizes = []
    for sentences in (300, 3000):
        corpus = random_corpus(sentences)
        streams = SentenceStreams(corpus, encoder_of(corpus), 4, 5)
        for _ in range(50):
            next(streams)
        sizes.append(len(json.dumps(streams.state_dict())))
    assert max(sizes) < 2500


# ---- bad input


def test_fewer_sentences_than_rows_is_refused(tokenizer):
    corpus = random_corpus(5)
    for independent in (False, True):
        for epochs in (1, None):
            streams = SentenceStreams(
                corpus, tokenizer, 3, 4, num_processes=2, epochs=epochs, sentence_independent=independent
            )
            with pytest.raises(ValueError, match="5 sentences.*6 rows"):
                next(streams)
    assert len(list(SentenceStreams(corpus, tokenizer, 5, 100, epochs=1))) == 1


def test_a_corpus_without_sentences_is_refused(tokenizer, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    streams = SentenceStreams(open_corpus(tmp_path / "blank.txt"), tokenizer, 1, 4)
    with (
        pytest.warns(UserWarning, match=r"blank\.txt holds no sentence"),
        pytest.raises(ValueError, match=r"blank\.txt"),
    ):
        next(streams)


@pytest.mark.slow
def test_a_line_of_a_million_words(tokenizer, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("the cat " * 500_000 + "\nthe dog\n")
    streams = SentenceStreams(open_corpus(path), tokenizer, 2, 1000, epochs=1, shuffle=False)
    assert sum(batch.words for batch in streams) == 1_000_001 + 3
    streams = SentenceStreams(open_corpus(path), tokenizer, 64, 400, epochs=1, sentence_independent=True)
    with pytest.raises(ValueError, match="2 sentences"):
        next(streams)
    streams = SentenceStreams(open_corpus(path), tokenizer, 2, 100_000, epochs=1, sentence_independent=True)
    assert sum(batch.words for batch in streams) == 1_000_001 + 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows=0"),
        ({"steps": 0}, "steps=0"),
        ({"process_index": 2, "num_processes": 2}, "process_index=2: expected 0 to num_processes - 1 = 1"),
        ({"seed": -1}, "seed=-1"),
        ({"epochs": 0}, "epochs=0"),
        ({"shuffle_window": 0}, "window of 0"),
        ({"pre_tokenization": "spaces"}, "pre_tokenization is 'spaces'"),
    ],
)
def test_impossible_arguments_are_named(tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        SentenceStreams(random_corpus(9), tokenizer, **{"rows": 2, "steps": 3, **arguments})


def test_memory_does_not_grow_with_the_steps(tmp_path):
    """With ten times the batches and always new words, the word table stays bounded."""
    corpus = random_corpus(4000)
    encoder = WordEncoder({"<S>": 1, "</S>": 2, "<UNK>": 3}, max_characters_per_word=12, cached_words=500)
    streams = SentenceStreams(corpus, encoder, 4, 10, epochs=1)
    largest = 0
    for _ in streams:
        largest = max(largest, len(encoder.character_ids))
        assert len(encoder._slot) <= 500
    assert largest == 500


# ---- POS tags

TAGS = ["A", "B", "C"]


def tag_of(word: str) -> str | None:
    return (*TAGS, None)[sum(map(ord, word)) % 4]


def tagged(corpus: Corpus) -> Corpus:
    words = [sentence.split() for sentence in corpus]
    return Corpus.from_sentences([TaggedSentence(each, [tag_of(word) for word in each]) for each in words])


@pytest.mark.parametrize("independent", [False, True])
def test_pos_tags_align_with_their_words(independent, tmp_path):
    plain = random_corpus(61, longest=11)
    encoder = encoder_of(plain)
    with_tags = WordEncoder(encoder._vocabulary, max_characters_per_word=12, pos_tag_set=TAGS)
    words = {number: word for word, number in encoder._vocabulary.items()}
    ids = {"A": 1, "B": 2, "C": 3, None: 0}

    def streams(**options):
        given = {"epochs": 2, "seed": 4, "sentence_independent": independent, **options}
        return SentenceStreams(tagged(plain), with_tags, 5, 7, pos_tag_ids=True, **given)

    batches = list(streams())
    reference = SentenceStreams(plain, encoder, 5, 7, epochs=2, seed=4, sentence_independent=independent)
    seen = 0
    for batch, other in zip(batches, reference, strict=True):
        assert_equal(batch, other)  # tags change nothing else
        assert other.forward_pos_tag_ids is None
        for name in ("forward", "backward"):
            read, found = getattr(batch, f"{name}_input_ids"), getattr(batch, f"{name}_pos_tag_ids")
            assert found.dtype == torch.int64 and found.shape == read.shape
            special = {0, 1, 2}  # padding and boundaries
            expected = [[0 if i in special else ids[tag_of(words[i])] for i in row] for row in read.tolist()]
            assert found.tolist() == expected
            seen += int(found.ne(0).sum())
    assert seen > 400
    assert batches[0].to("cpu").forward_pos_tag_ids is not None

    # From a saved position, and shared by two processes.
    first = streams()
    for _ in range(3):
        next(first)
    again = streams()
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for batch, expected in zip(again, batches[3:], strict=True):
        assert_equal(batch, expected)
        assert torch.equal(batch.backward_pos_tag_ids, expected.backward_pos_tag_ids)
    parts = [
        SentenceStreams(
            tagged(plain), with_tags, 5, 7, pos_tag_ids=True, num_processes=2, process_index=index, epochs=1
        )
        for index in range(2)
    ]
    whole = SentenceStreams(tagged(plain), with_tags, 10, 7, pos_tag_ids=True, epochs=1)
    for batch, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(batch.forward_pos_tag_ids, torch.cat([each.forward_pos_tag_ids for each in shares]))
        assert torch.equal(batch.backward_pos_tag_ids, torch.cat([each.backward_pos_tag_ids for each in shares]))


def test_missing_or_unknown_pos_tags(tokenizer):
    corpus = Corpus.from_sentences([TaggedSentence(["the", "cat"], ["A", "Q"])])
    with pytest.raises(ValueError, match=r"tokenizer.*pos_tag_set="):
        SentenceStreams(corpus, tokenizer, 1, 3, pos_tag_ids=True)
    known = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, pos_tag_set=TAGS)
    with pytest.raises(ValueError, match="'the cat'.*'Q'.*pos_tag_set.*A.*B.*C"):
        next(SentenceStreams(corpus, known, 1, 3, pos_tag_ids=True))
    with pytest.raises(ValueError, match=r"given sentences.*\(pos_column\)"):
        SentenceStreams(Corpus.from_sentences(["the cat"]), known, 1, 3, pos_tag_ids=True)
    # A model without POS tags reads only the words.
    batch = next(SentenceStreams(corpus, tokenizer, 1, 3, epochs=1, shuffle=False))
    assert batch.forward_input_ids.tolist() == [ids("<S> the cat")]
    assert batch.forward_pos_tag_ids is None
