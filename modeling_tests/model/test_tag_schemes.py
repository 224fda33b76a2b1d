"""Tag schemes, compared with regular expressions, and a tagger's labels in BIO."""

import itertools
import re

import pytest

from elmo_hf import ElmoForTokenClassification
from elmo_hf.model.tag_schemes import bio_name, forbidden_transitions, name_tags
from modeling_tests.tiny import tiny_config

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC"]


@pytest.mark.parametrize(
    ("labels", "scheme", "valid"),
    [
        (BIO, "BIO", r"(O|(B-PER)(I-PER)*|(B-LOC)(I-LOC)*)*"),
        (BIOES, "BIOES", r"(O|S-PER|S-LOC|(B-PER)(I-PER)*(E-PER))*"),
        (["I", "O", "B"], "BIO", r"(O|BI*)*"),
        (["E-a-b", "B-a-b"], "BIOES", r"((B-a-b)(E-a-b))*"),
        (["O", "B-X", "I-X", "L-X", "U-X", "U-Y"], "BIOUL", r"(O|U-X|U-Y|(B-X)(I-X)*(L-X))*"),
        (["B", "M", "E", "S"], "BMES", r"(S|BM*E)*"),
        (["O", "B-X", "M-X", "E-X", "S-Y"], "BMES", r"(O|S-Y|(B-X)(M-X)*(E-X))*"),
        # B only directly after an entity of the same type.
        (["O", "I-X", "B-X", "I-Y"], "IOB1", r"(O|I-Y|(I-X)(I-X|B-X)*)*"),
    ],
)
def test_exactly_the_sequences_of_the_scheme_are_allowed(labels, scheme, valid):
    forbidden = forbidden_transitions(labels, scheme)
    count = len(labels)
    for length in range(1, 5):
        for tags in itertools.product(range(count), repeat=length):
            steps = itertools.pairwise([count, *tags, count])
            allowed = not any(forbidden[before, after] for before, after in steps)
            assert allowed == bool(re.fullmatch(valid, "".join(labels[tag] for tag in tags))), tags


def test_labels_without_a_scheme_are_unconstrained():
    assert not forbidden_transitions(["NOUN", "VERB"], None).any()


@pytest.mark.parametrize(
    ("labels", "scheme", "message"),
    [
        (["O", "B-PER", "NOUN"], "BIO", "label 'NOUN'.*tag_scheme='BIO'.*O.*B, I"),
        (["O", "B-PER", "E-PER"], "BIO", "label 'E-PER'.*tag_scheme='BIO'"),
        (["O", "U-PER"], "BIOES", "label 'U-PER'.*B, I, E, S"),
        (["O", "B-"], "BIO", "label 'B-'"),
        (["O", "BI-PER"], "BIO", "label 'BI-PER'"),
        (["LABEL_0"], "BIO", "label 'LABEL_0'.*id2label"),
        (["O", "I-PER"], "BIO", "label 'I-PER'.*BIO.*'B-PER' .*IOB1"),
        (["O", "B-PER", "I-PER"], "BIOES", "label 'B-PER'.*BIOES.*'E-PER'"),
        (["O", "B-PER", "I-LOC"], "BIO", "label 'I-LOC'.*BIO.*'B-LOC'"),
        (["O", "E-PER", "S-PER"], "BIOES", "label 'E-PER'.*BIOES.*'B-PER'"),
        (["O", "B-PER", "I-PER"], "BIOUL", "label 'B-PER'.*BIOUL.*'L-PER'"),
        (["O", "M-PER", "E-PER"], "BMES", "label 'M-PER'.*BMES.*'B-PER'"),
        (["O", "B-PER", "I-LOC"], "IOB1", "label 'B-PER'.*IOB1.*'I-PER'"),
    ],
)
def test_labels_that_contradict_the_scheme_are_refused(labels, scheme, message):
    with pytest.raises(ValueError, match=message):
        forbidden_transitions(labels, scheme)


@pytest.mark.parametrize(
    ("scheme", "tags", "names"),
    [
        ("BIO", "O B-X I-X", "O B-X I-X"),
        ("BIOES", "B-X I-X E-X S-Y", "B-X I-X I-X B-Y"),
        ("BIOUL", "B-X I-X L-X U-Y-Z", "B-X I-X I-X B-Y-Z"),
        ("BMES", "B M E S O", "B I I B O"),
        ("IOB1", "I-X B-X O", "I-X B-X O"),
    ],
)
def test_names_in_bio(scheme, tags, names):
    assert [bio_name(tag, scheme) for tag in tags.split()] == names.split()


class TestLabelNames:
    def named(self, tags, scheme, **fields):
        config = tiny_config(id2label=dict(enumerate(tags)), tag_scheme=scheme, **fields)
        name_tags(config)
        return config

    def test_several_tags_have_one_name(self):
        config = self.named(BIOES, "BIOES")
        assert config.tag_names == config.label_names == BIOES
        assert list(config.id2label.values()) == ["O", "B-PER", "I-PER", "I-PER", "B-PER", "B-LOC"]
        assert config.num_labels == 6
        again = type(config).from_dict(config.to_dict())
        name_tags(again)
        assert (again.tag_names, again.id2label) == (BIOES, config.id2label)

    def test_labels_without_a_scheme_stay(self):
        config = self.named(["NOUN", "VERB"], None)
        assert config.tag_names is None and config.label_names == ["NOUN", "VERB"]

    def test_explicit_labels_take_precedence(self, tmp_path):
        model = ElmoForTokenClassification(self.named(BIOES, "BIOES"))
        model.save_pretrained(tmp_path)
        loaded = ElmoForTokenClassification.from_pretrained(tmp_path)
        assert loaded.config.label_names == BIOES
        other = [tag.replace("LOC", "ORG") for tag in BIOES]
        renamed = ElmoForTokenClassification.from_pretrained(tmp_path, id2label=dict(enumerate(other)))
        assert renamed.config.label_names == other
        assert renamed.config.id2label[5] == "B-ORG"
        fewer = ElmoForTokenClassification.from_pretrained(
            tmp_path, id2label={0: "O", 1: "S-X"}, ignore_mismatched_sizes=True
        )
        assert fewer.config.label_names == ["O", "S-X"]

    def test_without_crf(self):
        config = self.named(["O", "U-X"], "BIOUL")
        assert ElmoForTokenClassification(config).config.id2label == {0: "O", 1: "B-X"}
        with pytest.raises(ValueError, match="'S-X'.*tag_scheme='BIOUL'"):
            ElmoForTokenClassification(tiny_config(id2label={0: "O", 1: "S-X"}, tag_scheme="BIOUL"))
