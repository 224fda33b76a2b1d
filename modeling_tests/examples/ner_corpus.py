"""Generate a small English named-entity corpus: PER, LOC, ORG and MISC in varied, slightly noisy sentences.

    python examples/ner_corpus.py --output_dir corpus

Training, validation and test sentences share sentence patterns but no name: every person, place, company, nationality
and title of one split is unknown in the others. Spelling and context have to decide, and both matter: some names are
people in one sentence and places in the next ("Lincoln"), some are ordinary words elsewhere ("may", "rose").
"""

import argparse
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elmo_hf.finetuning import Sentence, write_lines

SPLITS = ("train", "validation", "test")
SHARES = (0.7, 0.15, 0.15)  # of each list of names

FIRST_NAMES = """
Alice Amara Andrei Anita Anton Aisha Barbara Beatriz Benjamin Bill Boris Bridget Camille Carlos Catherine Charlotte
Chen Chiara Chinedu Clara Colin Daniel Dana Deepak Diego Dmitri Edith Eleanor Elena Emeka Emily Erik Esther Eva Fatima
Felix Fiona Frank George Giulia Grace Grant Greta Gustavo Hannah Haruki Hassan Heather Helen Henrik Hiro Hope Hugo Ian
Imran Ingrid Irene Isabel Ivan Jack James Jan Jasmine Javier Joanna Jonas Joseph Juan Julia Kamal Karen Katya Keiko
Kenneth Kofi Lars Laura Leila Leon Linda Lucas Lucia Magnus Marco Margaret Maria Mark Martin Mary Matthias May Mei
Michael Miguel Miriam Mohammed Monika Nadia Naomi Natasha Neil Nigel Nina Noah Olga Oliver Omar Oscar Pablo Patrick
Paula Pedro Peter Philippa Pierre Priya Rachel Rafael Rajesh Rebecca Robert Robin Rosa Rose Ruth Samir Samuel Sandra
Sanjay Sarah Sergei Simone Sofia Stefan Stephen Susan Svetlana Tanya Tariq Teresa Thomas Tobias Tom Ursula Valentina
Vera Viktor Vincent Walter Wendy Will William Yan Yasmin Yuki Yusuf Zara Zoe
""".split()

LAST_NAMES = """
Abbott Abdullah Adeyemi Almeida Andersen Baker Banerjee Barnes Becker Bennett Bianchi Bjornsson Blake Bogdanov Brandt
Brennan Callahan Campbell Cardoso Castillo Chandra Clarke Connolly Cooper Costa Crawford Dalton Davies Delgado
Diallo Dubois Dvorak Edwards Eriksson Espinoza Farouk Ferguson Fernandez Fischer Fitzgerald Fletcher Fontaine Fraser
Fujimoto Gallagher Garcia Gibson Goldberg Gonzalez Gordon Grigoriev Gupta Haddad Hansen Harper Hayashi Hernandez
Hoffmann Horvath Hughes Ibrahim Ivanova Jankowski Jensen Johansson Kaplan Kapoor Keller Kelly Khan Kimura Kowalski
Kruger Kuznetsov Lambert Larsen Lefebvre Leung Lindqvist Lopez Mackenzie Malik Marchetti Marino Marshall Matsuda
McCarthy McGregor Mendes Meyer Mitchell Morales Moreau Morozov Murphy Nakamura Navarro Nielsen Novak Nwosu
Oliveira O'Brien O'Neill Okafor Olsen Ortega Pappas Parker Patel Pereira Petrov Phillips Popescu Quinn Rahman Ramirez
Richter Rinaldi Roberts Rodriguez Romano Rossi Rousseau Russo Sanchez Sato Schmidt Schneider Schwartz Sharma Silva
Simmons Singh Sokolov Stewart Strand Suzuki Szabo Tanaka Thompson Torres Tremblay Turner Vasquez Vega Volkov
Wagner Walsh Watanabe Weber Weiss Wilkins Winters Wojcik Yamamoto Yilmaz Zhang Zimmermann
""".split()

PLACES = """
Aberdeen Accra Adelaide Algiers Amsterdam Ankara Antwerp Athens Auckland Bangkok Barcelona Basel Beirut Belfast
Bergen Berlin Bilbao Bogota Bologna Bordeaux Boston Bratislava Bremen Brisbane Brussels Bucharest Budapest Cairo
Calgary Cardiff Casablanca Chennai Chicago Cologne Copenhagen Cordoba Dakar Dallas Delhi Denver Detroit Dresden
Dubai Dublin Dundee Durban Edinburgh Edmonton Essen Gdansk Geneva Genoa Ghent Glasgow Gothenburg Granada Graz
Hamburg Hanoi Havana Helsinki Hiroshima Honolulu Innsbruck Istanbul Jakarta Johannesburg Kampala Karachi Kathmandu
Kingston Krakow Kyoto Lagos Lahore Leeds Leipzig Lima Lisbon Liverpool Ljubljana Lusaka Lyon Madrid Malaga Manila
Marseille Melbourne Memphis Milan Minsk Mombasa Montreal Mumbai Munich Nagoya Nairobi Nantes Naples Odessa Osaka
Oslo Ottawa Oxford Palermo Perth Phoenix Plymouth Porto Prague Quito Rabat Reykjavik Riga Rotterdam Salzburg Santiago
Sapporo Sarajevo Seattle Seoul Seville Sheffield Shanghai Sofia Stockholm Strasbourg Stuttgart Tallinn Tampere Tbilisi
Tirana Toledo Toronto Toulouse Trieste Tromso Tunis Turin Utrecht Valencia Vancouver Vienna Vilnius Warsaw Winnipeg
Wuhan Yerevan Zagreb Zurich
""".split()

# People in one sentence, places in the next.
SURNAMES_AND_PLACES = """
Austin Bolton Bristol Burton Carlisle Chester Clinton Darwin Derby Durham Hamilton Hastings Houston Jackson Kent
Lancaster Lincoln London Madison Milton Nelson Newton Norton Paris Preston Raleigh Salisbury Stafford Stanley Sutton
Sydney Warwick Washington Wellington Weston Winchester Windsor York
""".split()

NATIONALITIES = """
Algerian American Argentine Australian Austrian Bangladeshi Belgian Bolivian Brazilian British Bulgarian Canadian
Chilean Chinese Colombian Croatian Cuban Czech Danish Dutch Egyptian Estonian Ethiopian Finnish French Georgian German
Ghanaian Greek Hungarian Icelandic Indian Indonesian Iranian Iraqi Irish Israeli Italian Jamaican Japanese Jordanian
Kenyan Korean Latvian Lebanese Lithuanian Malaysian Maltese Mexican Mongolian Moroccan Nepalese Nigerian Norwegian
Pakistani Peruvian Polish Portuguese Romanian Russian Scottish Senegalese Serbian Slovak Slovenian Spanish Swedish Swiss
Syrian Taiwanese Thai Tunisian Turkish Ukrainian Uruguayan Venezuelan Vietnamese Welsh
""".split()

# "Nor" + "vex": names of companies and products, and with a number of products.
COINED_STARTS = """
Acri Alti Ampi Arbo Astra Avi Bel Brio Cala Cora Cryo Delta Dyna Ecto Ever Flexi Fluo Gala Geno Helio Hydro Inno Inte
Juni Kine Lumi Macro Medi Meri Metro Nano Neo Nor Nova Octa Omni Opti Orbi Petro Pixel Plexi Poly Prima Quanta Quo Radi
Sana Sola Stella Syn Tecto Terra Tri Ultra Uni Vanta Verti Vita Voxel Xeno Zephy
""".split()
COINED_ENDS = """
bank base cast chem core corp data dyne fuse gen gram lab link logic mart med net nex pharm soft tech tel tex tron vex
ware wave works
""".split()

TITLE_ADJECTIVES = """
Ancient Bitter Broken Burning Crimson Distant Empty Endless Falling Forgotten Frozen Gentle Golden Hidden Hollow Iron
Last Lonely Lost Midnight Narrow Northern Pale Quiet Restless Scarlet Secret Shattered Silent Silver Sleeping Sudden
Velvet Wandering Weeping White Wild Winding
""".split()
TITLE_NOUNS = """
Bridge Candle Cathedral City Crossing Daughter Desert Empire Father Forest Garden Gate Harbour Horizon Horse House
Island Kingdom Lantern Letter Lighthouse Machine Mirror Mountain Ocean Orchard Passenger Promise River Road Sea
Shadow Sister Soldier Song Station Stranger Tower Valley Winter Witness
""".split()

ORDINARY: dict[str, list[str]] = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
    "number": "two three five eleven 12 40 150 3,200 1.5 half".split(),
    "year": "1987 1994 2003 2011 2016 2019 2022".split(),
    "money": ["$ 3 million", "$ 40", "600 euros", "1.2 billion dollars", "£ 75,000"],
    "job": "minister striker novelist nurse engineer senator singer professor coach lawyer pilot painter".split(),
    "thing": "contract bridge train album report vaccine factory painting stadium library ferry phone".split(),
    "verb": "announced denied confirmed reported suggested repeated".split(),
    "mood": "happy furious surprised silent tired proud".split(),
}

PATTERNS = """
{PER} was born in {LOC} in {year} .
{PER} , a {NATIONALITY} {job} , moved to {LOC} last {month} .
The {NATIONALITY} {job} {PER} will join {ORG} next {month} .
{ORG} said on {day} it would open a new {thing} in {LOC} .
Shares of {ORG} rose {number} percent after the {thing} was sold .
{PER} did n't say why {ORG} had left {LOC} .
" We are {mood} , " said {PER} , who runs {ORG} .
I met {PER} and {PER} at the station in {LOC} .
Have you read {WORK} by {PER} ?
{WORK} won {number} prizes in {LOC} on {day} .
{ORG} may grant {PER} a second {thing} .
{LOC} , {LOC} and {LOC} were hit by heavy rain .
The mayor of {LOC} , {PER} , {verb} the plan .
{PER} ( {ORG} ) and {PER} ( {ORG} ) signed the {thing} .
{PER} 's {thing} is older than {LOC} .
My sister works for {ORG} in {LOC} .
According to {ORG} , the {thing} was built in {year} .
{PER} scored twice as {ORG} beat {ORG} {number} - 1 .
They will mark the day with a {NATIONALITY} dinner in {LOC} .
He bought a {PRODUCT} for {money} in {LOC} .
The new {PRODUCT} costs {money} , {ORG} {verb} .
{PER} plays the {job} in {WORK} , filmed near {LOC} .
{NATIONALITY} officials {verb} that {PER} had arrived in {LOC} .
Nobody at {ORG} answered the phone on {day} .
RT @user{number} : {PER} is at {LOC} right now !!
omg {PER} just liked my photo from {LOC} :)
{LOC} - {ORG} {verb} a loss of {money} on {day} .
Dr. {SURNAME} of {ORG} studies {NATIONALITY} poetry .
Mr. {SURNAME} and Mrs. {SURNAME} live near {LOC} .
President {SURNAME} flew from {LOC} to {LOC} on {day} .
Professor {PER} teaches at {ORG} .
{PER} , {number} , has written about {NATIONALITY} and {NATIONALITY} music .
Is {LOC} colder than {LOC} in {month} ?
The train from {LOC} to {LOC} was {number} hours late .
She learnt {NATIONALITY} in {LOC} before joining {ORG} .
{ORG} hired {PER} as its {job} in {year} .
{ORG} and {ORG} will share the {thing} in {LOC} .
Ask {PER} whether the {thing} from {LOC} has come .
{PER} rose to speak , but the {NATIONALITY} {job} left .
When {PER} visited {LOC} , {ORG} paid the bill .
Fans of {ORG} were {mood} after the {EVENT} .
The {thing} that {PER} designed for {ORG} stands in {LOC} .
{PER} v. {ORG} was heard in {LOC} on {day} .
It 's {PER} who {verb} it , not {PER} .
Both {LOC} and {LOC} want to host the {EVENT} .
{PER} won the {EVENT} in {year} and retired to {LOC} .
I 've never been to {LOC} .
Thank you , {FIRST} !
{FIRST} , can you bring the {PRODUCT} on {day} ?
{FIRST} told {FIRST} that {ORG} was {mood} .
From : {PER} , {ORG} , {LOC}
{PER} ( born {year} in {LOC} ) is a {NATIONALITY} {job} .
The {job} sang songs from {WORK} in front of {number} people .
Police in {LOC} {verb} that a {NATIONALITY} {job} was missing .
{NATIONALITY} and {NATIONALITY} wines are sold at {ORG} .
Our flight left {LOC} at noon ; {PER} slept all the way to {LOC} .
If {ORG} buys {ORG} , {PER} will be {mood} .
We watched {WORK} with {FIRST} on {day} .
{ORG} 's office in {LOC} has {number} floors .
My {PRODUCT} broke after a week , says {PER} .
{ORG} withdrew the {PRODUCT} from {NATIONALITY} shops .
""".strip().splitlines()

# No entity at all, although some words look like names.
PLAIN_PATTERNS = """
The {job} may resign in {month} .
It will rain on {day} , I hope .
Prices rose by {number} percent in {year} .
They will grant the {job} {money} for a new {thing} .
Please mark the {thing} and send the bill by {day} .
Nobody was {mood} about the {thing} .
The frank {job} said the will was valid .
A {thing} like that costs {money} .
lol what a {thing}
How many days are there in {month} ?
""".strip().splitlines()
PLAIN_SHARE = 0.12

SLOT = re.compile(r"\{(\w+)\}")


@dataclass
class Names:
    """The names of one split, and how they are put together; each method returns the words of one name."""

    split: str
    seed: int
    lists: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        coined = [start + end for start in COINED_STARTS for end in COINED_ENDS]
        letters = "ABCDEFGHKLMNPRSTUVWZ"
        draw = random.Random(f"acronyms {self.seed}")
        acronyms = sorted({"".join(draw.choices(letters, k=draw.choice((3, 3, 4)))) for _ in range(400)})
        both = self._part("both", SURNAMES_AND_PLACES)
        self.lists = {
            "first": self._part("first", FIRST_NAMES),
            "last": self._part("last", LAST_NAMES) + both,
            "place": self._part("place", [place for place in PLACES if place not in FIRST_NAMES]) + both,
            "nationality": self._part("nationality", NATIONALITIES),
            "coined": self._part("coined", coined),
            "acronym": self._part("acronym", acronyms),
            "title": self._part("title", [f"{a} {n}" for a in TITLE_ADJECTIVES for n in TITLE_NOUNS]),
        }

    def _part(self, name: str, words: Sequence[str]) -> list[str]:
        """This split's share of a list, the same whoever asks, disjoint from the other splits'."""
        shuffled = list(words)
        random.Random(f"{name} {self.seed}").shuffle(shuffled)
        index = SPLITS.index(self.split)
        start, end = (round(sum(SHARES[:i]) * len(shuffled)) for i in (index, index + 1))
        return shuffled[start:end]

    def name(self, slot: str, draw: random.Random) -> list[str]:
        """Words of a random name for a slot, a key of `ENTITY_OF_SLOT`."""
        first, last, place, coined = (draw.choice(self.lists[key]) for key in ("first", "last", "place", "coined"))
        other = draw.choice(self.lists["last"])
        forms: dict[str, list[tuple[int, str]]] = {
            "PER": [
                (10, f"{first} {last}"),
                (3, first),
                (4, last),
                (2, f"{first[0]}. {last}"),
                (1, f"{first} {other[0]}. {last}"),
                (1, f"{first} {last}-{other}"),
            ],
            "FIRST": [(1, first)],
            "SURNAME": [(1, last)],
            "LOC": [
                (14, place),
                (1, f"North {place}"),
                (1, f"Lake {place}"),
                (1, f"{place} Valley"),
                (1, f"Port {place}"),
                (1, f"{last} Street"),
            ],
            "ORG": [
                (4, coined),
                (2, f"{coined} {draw.choice(('Inc.', 'Ltd.', 'Corp.', 'Group', 'Holdings'))}"),
                (3, draw.choice(self.lists["acronym"])),
                (2, f"University of {place}"),
                (2, f"{place} {draw.choice(('United', 'Rovers', 'City', 'Athletic'))}"),
                (1, f"Bank of {place}"),
                (1, f"{place} City Council"),
                (2, f"{last} & {draw.choice(('Sons', 'Partners', other))}"),
                (1, f"{last} Foundation"),
            ],
            "NATIONALITY": [(1, draw.choice(self.lists["nationality"]))],
            "WORK": [(1, f"The {draw.choice(self.lists['title'])}")],
            "EVENT": [(1, f"{place} Marathon"), (1, f"{last} Cup"), (1, f"{place} Open")],
            "PRODUCT": [(1, f"{coined} {draw.randint(2, 900)}"), (1, f"{coined} Pro")],
        }
        weights, choices = zip(*forms[slot], strict=True)
        return draw.choices(choices, weights)[0].split()


ENTITY_OF_SLOT = {
    "PER": "PER",
    "FIRST": "PER",
    "SURNAME": "PER",
    "LOC": "LOC",
    "ORG": "ORG",
    "NATIONALITY": "MISC",
    "WORK": "MISC",
    "EVENT": "MISC",
    "PRODUCT": "MISC",
}


def make_sentence(names: Names, draw: random.Random) -> Sentence:
    """One sentence: a pattern, its slots filled, then perhaps some noise."""
    pattern = draw.choice(PLAIN_PATTERNS if draw.random() < PLAIN_SHARE else PATTERNS)
    sentence = Sentence([], [])
    for piece in pattern.split():
        slot = SLOT.search(piece)
        if slot is None:
            words, entity = [piece], None
        elif slot[1] in ORDINARY:
            words, entity = piece.replace(slot[0], draw.choice(ORDINARY[slot[1]])).split(), None
        else:
            words, entity = names.name(slot[1], draw), ENTITY_OF_SLOT[slot[1]]
        sentence.words.extend(words)
        sentence.tags.extend("O" if entity is None else f"{'I' if i else 'B'}-{entity}" for i in range(len(words)))
    return add_noise(sentence, draw)


def add_noise(sentence: Sentence, draw: random.Random) -> Sentence:
    """Add noise: all lower or upper case, a missing full stop, a typing error. Tags stay."""
    words, tags = list(sentence.words), list(sentence.tags)
    kind = draw.random()
    if kind < 0.06:
        words = [word.lower() for word in words]
    elif kind < 0.09:
        words = [word.upper() for word in words]
    if draw.random() < 0.1 and words[-1] == ".":
        words, tags = words[:-1], tags[:-1]
    if draw.random() < 0.08:
        index = draw.randrange(len(words))
        word = words[index]
        if len(word) > 4 and word.isalpha():
            at = draw.randrange(1, len(word) - 1)
            slips = (word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:])
            words[index] = draw.choice(slips)
    return Sentence(words, tags)


def generate(split: str, count: int, seed: int = 0) -> list[Sentence]:
    """`count` sentences of a split (`train`, `validation`, `test`), the same for the same seed."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    names, draw = Names(split, seed), random.Random(f"sentences {split} {seed}")
    return [make_sentence(names, draw) for _ in range(count)]


def write_conll(sentences: Iterable[Sentence], path: Path) -> None:
    """Write `word<TAB>tag` lines with a blank line after each sentence; the file appears only when it is complete."""
    blocks = ("".join(f"{word}\t{tag}\n" for word, tag in zip(*sentence, strict=True)) for sentence in sentences)
    write_lines(path, (block + "\n" for block in blocks))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Generate a small named-entity corpus in CoNLL format.")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for train, validation and test .conll")
    for split, count in zip(SPLITS, (2000, 300, 400), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"sentences (default {count})")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        write_conll(generate(split, getattr(args, split), args.seed), args.output_dir / f"{split}.conll")


if __name__ == "__main__":
    from elmo_hf.finetuning import run

    run(main)
