"""Tag schemes, which encode entities as one tag per word, and their allowed transitions.

A tag is a letter and a type, `B-PER`, or `O` outside entities. The letter is the position of a word in its entity:

    ==========  ======  =======  =====  =============
    scheme      first   between  last   the only word
    ==========  ======  =======  =====  =============
    BIO (IOB2)  B       I        I      B
    BIOES       B       I        E      S
    BIOUL       B       I        L      U
    BMES        B       M        E      S
    ==========  ======  =======  =====  =============

In IOB1, every word of an entity is I, except that its first word is B if an entity of the same type ends just before.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from .configuration_elmo import ElmoConfig

# Letter of each scheme -> letter of BIOES.
ROLES = {
    "BIO": {"B": "B", "I": "I"},
    "BIOES": {"B": "B", "I": "I", "E": "E", "S": "S"},
    "BIOUL": {"B": "B", "I": "I", "L": "E", "U": "S"},
    "BMES": {"B": "B", "M": "I", "E": "E", "S": "S"},
    "IOB1": {"B": "B", "I": "I"},
}


def parse_tag(tag: str, scheme: str) -> tuple[str, str]:
    """Role and type of a tag, `("O", "")` outside of an entity.

    Raises:
        ValueError: not a tag of the scheme.
    """
    if tag == "O":
        return "O", ""
    letter, dash, kind = tag.partition("-")
    if letter not in ROLES[scheme] or bool(dash) != bool(kind):
        raise ValueError(
            f"label {tag!r} is not a tag of tag_scheme={scheme!r}: expected O, or one of "
            f"{', '.join(ROLES[scheme])} with a dash and a type, such as B-PER. Give id2label the tags of the data, "
            "or set tag_scheme=None for other labels"
        )
    return ROLES[scheme][letter], kind


def bio_name(tag: str, scheme: str) -> str:
    """The equivalent BIO tag: I-PER for E-PER, B-PER for S-PER.

    IOB1 tags are unchanged, because Transformers' pipeline joins neighbors of one type up to the next B.
    """
    role, kind = parse_tag(tag, scheme)
    letter = {"E": "I", "S": "B"}.get(role, role)
    return f"{letter}-{kind}" if kind else letter


def name_tags(config: ElmoConfig) -> None:
    """Set `tag_names` to the tags of `tag_scheme`, and `id2label` to the equivalent BIO tags.

    Transformers' pipeline supports no other scheme and would split the entities. The tags are taken from `tag_names`,
    or from `id2label` if that was changed since.

    Raises:
        ValueError: a label is not a tag of the scheme.
    """
    scheme, names = config.tag_scheme, cast("dict[int, str]", config.id2label)
    labels = [names[index] for index in range(len(names))]
    if scheme is None:
        config.tag_names = None
        return
    if config.tag_names is None or [bio_name(tag, scheme) for tag in config.tag_names] != labels:
        config.tag_names = labels
    config.id2label = {index: bio_name(tag, scheme) for index, tag in enumerate(config.tag_names)}
    config.label2id = {name: index for index, name in config.id2label.items()}


def may_follow(before: tuple[str, str] | None, after: tuple[str, str] | None, scheme: str) -> bool:
    """True if tag `after` may follow tag `before`; `None` is the beginning or the end of the sentence."""
    role_before, kind_before = before or ("O", "")
    role_after, kind_after = after or ("O", "")
    is_inside = role_before in ("B", "I") and kind_before == kind_after
    if scheme == "IOB1":
        return role_after != "B" or is_inside
    continues = is_inside and role_after in ("I", "E")
    if scheme == "BIO":
        return continues or role_after != "I"
    # An open entity must be continued until its end, and only an open entity can be.
    return continues or (role_before not in ("B", "I") and role_after not in ("I", "E"))


def forbidden_transitions(labels: Sequence[str], scheme: str | None, is_strict: bool = True) -> Tensor:
    """Transitions that a tag scheme forbids, for instance from B-LOC to I-PER.

    The rules are those of AllenNLP's `allowed_transitions`, except that BMES also has O.

    Args:
        labels: the L tags, in the order of their ids.
        scheme: a key of `ROLES`, or `None` for no constraints.
        is_strict: also refuse a label that can occur in no sequence of these labels.

    Returns:
        (L + 1, L + 1), bool, on the CPU: true if the tag of the row must not be followed by the tag of the column. The
        last row is the beginning of a sentence, the last column its end.

    Raises:
        ValueError: a label is not a tag of the scheme, or can occur in no sequence.
    """
    count = len(labels)
    if scheme is None:
        return torch.zeros(count + 1, count + 1, dtype=torch.bool, device="cpu")
    tags = [*(parse_tag(label, scheme) for label in labels), None]
    allowed = [[may_follow(before, after, scheme) for after in tags] for before in tags]
    if is_strict:
        _check_reachable(allowed, labels, scheme)
    # On the CPU, because models are also constructed with "meta" as the default device.
    return torch.tensor([[not may for may in row] for row in allowed], device="cpu")


def _check_reachable(allowed: Sequence[Sequence[bool]], labels: Sequence[str], scheme: str) -> None:
    begins = _reached(allowed, len(labels))
    ends = _reached([list(column) for column in zip(*allowed, strict=True)], len(labels))
    letters = {role: letter for letter, role in ROLES[scheme].items()}
    for index, label in enumerate(labels):
        if index not in begins or index not in ends:
            lacks, kind = ("E" if index in begins else "B"), parse_tag(label, scheme)[1]
            letter = "I" if scheme == "IOB1" else letters[lacks]
            raise ValueError(
                f"label {label!r} cannot occur in any {scheme} sequence of the labels {', '.join(labels)}: expected "
                f"{f'{letter}-{kind}' if kind else letter!r} among them. Set tag_scheme to the scheme of the data, one "
                f"of {', '.join(ROLES)} (in IOB1, I begins entities), or to None"
            )


def _reached(allowed: Sequence[Sequence[bool]], boundary: int) -> set[int]:
    """Tags reachable from the boundary without passing it again."""
    found, ahead = {boundary}, [boundary]
    while ahead:
        before = ahead.pop()
        new = {after for after, may in enumerate(allowed[before]) if may} - found
        found |= new
        ahead += new
    return found
