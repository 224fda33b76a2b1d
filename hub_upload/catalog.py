"""Catalog of the published originals: locations, languages and licenses by name.

URLs come from the originals' public documentation, named in `documented`, or from public programs that load them. None
of the authors publishes checksums of these files. A downloaded file is therefore accepted if its conversion passes
verification, and its SHA-256 is recorded in the card.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from elmo_hf.hub import PREFIX

from .common.errors import CheckpointError

NOT_STATED = "not stated by the authors"
S3 = "https://allennlp.s3.amazonaws.com/models"
NLPL = "http://vectors.nlpl.eu/repository"
ELMO_PAGE = "https://allennlp.org/elmo"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a published model.

    Attributes:
        url: URL at the authors' site.
        role: Argument of `convert`: the `source` itself, or `weights`, `options`, `softmax`, `vocabulary`.
        sha256: Hash of its content, if the authors publish it.
    """

    url: str
    role: str = "source"
    sha256: str | None = None

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """A published original.

    Attributes:
        name: Name in the catalog.
        what: Short description.
        language: Language code.
        megabytes: Approximate download size; computed from the number of weights if the authors give none. `None` if
            neither is known.
        files: Files to download.
        softmax: Further files of its language model.
        license: Hub identifier; `None` if the authors state none.
        documented: Page that gives the URLs.
        is_confirmed: False for a URL that was only inferred from similar ones, with an undocumented number.
        citations: BibTeX, if different from the family's.
    """

    name: str
    what: str
    language: str
    megabytes: int | None
    files: tuple[RemoteFile, ...]
    softmax: tuple[RemoteFile, ...] = ()
    license: str | None = None
    documented: str = ELMO_PAGE
    is_confirmed: bool = True
    citations: tuple[str, ...] = ()


CHE_2018 = """@inproceedings{che-etal-2018-towards,
  title = "Towards Better {UD} Parsing: Deep Contextualized Word Embeddings, Ensemble, and Treebank Concatenation",
  author = "Che, Wanxiang and Liu, Yijia and Wang, Yuxuan and Zheng, Bo and Liu, Ting",
  booktitle = "Proceedings of the CoNLL 2018 Shared Task",
  year = "2018",
  url = "https://aclanthology.org/K18-2005",
}"""
KUTUZOV_2021 = """@inproceedings{kutuzov-etal-2021-large,
  title = "Large-Scale Contextualised Language Modelling for Norwegian",
  author = "Kutuzov, Andrey and Barnes, Jeremy and Velldal, Erik and {\\O}vrelid, Lilja and Oepen, Stephan",
  booktitle = "Proceedings of NoDaLiDa 2021",
  year = "2021",
  url = "https://aclanthology.org/2021.nodalida-main.4",
}"""


def _bilm(folder: str, stem: str, weights: str = "weights") -> tuple[RemoteFile, ...]:
    place = f"{S3}/elmo/{folder}/{stem}"
    return RemoteFile(f"{place}_options.json", "options"), RemoteFile(f"{place}_{weights}.hdf5", "weights")


def _english(name: str, what: str, megabytes: int, stem: str, vocabulary: str | None = None) -> Published:
    folder = f"{S3}/elmo/{stem}"
    softmax: tuple[RemoteFile, ...] = ()
    if vocabulary is not None:
        softmax = (
            RemoteFile(f"{folder}/elmo_{stem}_softmax_weights.hdf5", "softmax"),
            RemoteFile(f"{folder}/{vocabulary}", "vocabulary"),
        )
    return Published(name, what, "en", megabytes, _bilm(stem, f"elmo_{stem}"), softmax)


# Options of the ELMo of original size, which some archives refer to without containing them.
_ORIGINAL = "2x4096_512_2048cnn_2xhighway"
_ORIGINAL_OPTIONS = RemoteFile(f"{S3}/elmo/{_ORIGINAL}/elmo_{_ORIGINAL}_options.json", "options")
_CONFIGS = "https://github.com/allenai/allennlp/blob/v0.9.0/training_config"
_MODELS = "https://github.com/allenai/allennlp/blob/v0.9.0/MODELS.md"


def _task(name: str, what: str, megabytes: int | None, url: str, documented: str) -> Published:
    return Published(name, what, "en", megabytes, (RemoteFile(url), _ORIGINAL_OPTIONS), documented=documented)


# ELMoForManyLangs, in the order of its page: code, name, number in the NLPL repository.
_MANY = (
    "ar Arabic 136|bg Bulgarian 137|ca Catalan 138|cs Czech 139|cu Old Church Slavonic 140|da Danish 141|de German 142|"
    "el Greek 143|en English 144|es Spanish 145|et Estonian 146|eu Basque 147|fa Persian 148|fi Finnish 149|"
    "fr French 150|ga Irish 151|gl Galician 152|grc Ancient Greek 153|he Hebrew 154|hi Hindi 155|hr Croatian 156|"
    "hu Hungarian 157|id Indonesian 158|it Italian 159|ja Japanese 160|ko Korean 161|la Latin 162|lv Latvian 163|"
    "nl Dutch 164|nb Norwegian Bokmål 165|nn Norwegian Nynorsk 166|pl Polish 167|pt Portuguese 168|ro Romanian 169|"
    "ru Russian 170|sk Slovak 171|sl Slovene 172|sv Swedish 173|tr Turkish 174|ug Uyghur 175|uk Ukrainian 176|"
    "ur Urdu 177|vi Vietnamese 178|zh Chinese (traditional) 179"
)
_MANY_PAGE = "https://github.com/HIT-SCIR/ELMoForManyLangs"


def _many() -> Iterator[Published]:
    for row in _MANY.split("|"):
        code, _, rest = row.partition(" ")
        language, _, number = rest.rpartition(" ")
        yield Published(
            f"many-{code}",
            f"ELMoForManyLangs, {language} (NLPL {number})",
            code,
            None,
            (RemoteFile(f"{NLPL}/11/{number}.zip"),),
            documented=_MANY_PAGE,
            citations=(CHE_2018,),
        )


_NORWEGIAN_PAGE = "https://wiki.nlpl.eu/Vectors/norlm/elmo"
# Models of the NLPL repository with a documented number: number, language, description, page, license.
_NLPL = (
    (195, "ru", "Russian, National Corpus and Wikipedia, words", "https://rusvectores.org/en/models/", None),
    (196, "ru", "Russian, National Corpus and Wikipedia, lemmas", "https://rusvectores.org/en/models/", None),
    (199, "ru", "Russian, Taiga, lemmas, cells of 2048", "https://rusvectores.org/en/models/", None),
    (210, "no", "Norwegian Wikipedia, lemmas", _NORWEGIAN_PAGE, "cc-by-4.0"),
    (211, "no", "Norwegian Wikipedia, words", _NORWEGIAN_PAGE, "cc-by-4.0"),
    (217, "no", "NorELMo30: Norwegian, 30,000 target words", _NORWEGIAN_PAGE, "cc-by-4.0"),
    (218, "no", "NorELMo100: Norwegian, 100,000 target words", _NORWEGIAN_PAGE, "cc-by-4.0"),
)


def _nlpl(number: int, language: str, what: str, page: str, license: str | None, confirmed: bool = True) -> Published:
    return Published(
        f"nlpl-{number}",
        what,
        language,
        None,
        (RemoteFile(f"{NLPL}/20/{number}.zip"),),
        license=license,
        documented=page,
        is_confirmed=confirmed,
        citations=(KUTUZOV_2021,) if page == _NORWEGIAN_PAGE else (),
    )


CATALOG: dict[str, Published] = {
    each.name: each
    for each in (
        _english("small", "biLM, cells of 1024", 54, "2x1024_128_2048cnn_1xhighway"),
        _english("medium", "biLM, cells of 2048", 112, "2x2048_256_2048cnn_1xhighway"),
        _english("original", "biLM of the paper", 374, "2x4096_512_2048cnn_2xhighway", "vocab-2016-09-10.txt"),
        _english(
            "original-5.5B",
            "biLM trained on 5.5 billion words",
            374,
            "2x4096_512_2048cnn_2xhighway_5.5B",
            "tf_checkpoint/vocab-enwiki-news-500000.txt",
        ),
        Published("portuguese", "biLM, contributed", "pt", 374, _bilm("contributed/pt", "elmo_pt")),
        Published(
            "pubmed",
            "biLM of biomedical papers, contributed",
            "en",
            374,
            _bilm("contributed/pubmed", "elmo_2x4096_512_2048cnn_2xhighway", "weights_PubMed_only"),
        ),
        Published(
            "transformer",
            "Transformer ELMo, language model",
            "en",
            None,
            (RemoteFile(f"{S3}/transformer-elmo-2019.01.10.tar.gz"),),
            documented="https://github.com/allenai/allennlp/blob/v0.9.0/tutorials/how_to/training_transformer_elmo.md",
        ),
        _task(
            "ner",
            "tagger of names, CoNLL-2003",
            711,
            f"{S3}/ner-model-2018.12.18.tar.gz",
            f"{_CONFIGS}/ner_elmo.jsonnet",
        ),
        _task(
            "ner-elmo",
            "tagger of names, CoNLL-2003, of 2021",
            None,
            "https://storage.googleapis.com/allennlp-public-models/ner-elmo.2021-02-12.tar.gz",
            "https://github.com/allenai/allennlp-models/blob/v2.10.0/allennlp_models/modelcards/tagging-elmo-crf-tagger.json",
        ),
        _task(
            "fine-grained-ner",
            "tagger of 16 kinds of names, OntoNotes 5",
            725,
            f"{S3}/fine-grained-ner-model-elmo-2018.12.21.tar.gz",
            _MODELS,
        ),
        _task(
            "sst",
            "classifier of sentiment, 5 classes, SST",
            None,
            f"{S3}/sst-5-elmo-biattentive-classification-network-2018.09.04.tar.gz",
            f"{_CONFIGS}/biattentive_classification_network_elmo.jsonnet",
        ),
        *_many(),
        *(_nlpl(*row) for row in _NLPL),
    )
}


def find(name: str) -> Published:
    """Find a published original by name, with or without `elmo:`; `nlpl-N` is any number of the NLPL repository.

    Raises:
        CheckpointError: no such original; the message names similar ones.
    """
    name = name.removeprefix(PREFIX)
    if name in CATALOG:
        return CATALOG[name]
    kind, _, number = name.partition("-")
    if kind == "nlpl" and number.isdecimal():
        many = f"{NLPL}/11/{number}.zip"
        if found := next((each for each in CATALOG.values() if each.files[0].url == many), None):
            return found
        page = "http://vectors.nlpl.eu/repository/"
        return _nlpl(int(number), "und", f"number {number} of the NLPL repository", page, None, confirmed=False)
    near = get_close_matches(name, CATALOG, n=4, cutoff=0.4)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise CheckpointError(f"{name!r}: no published original of this name{hint}; elmo-hub list names all")
