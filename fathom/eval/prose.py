"""Words for documents: people, places and things that don't exist, and plain sentences between them.

Everything is drawn from a given `random.Random`, so a document is a function of its seed. Names are made from parts, so that
similar ones (Tarn Hollow, Tarn Gate) arise by themselves: they are the distractors. The sentences say nothing that a question
could ask for.

Lengths are nominal tokens. Measured with the published V4 vocabulary (129 280 entries), this prose has 4.7 characters a token and
an archive, with its ids, dates and names, 3.78; we count 4.5 and 3.6 and take the question off, so that a document of "64K" has 95
to 97% of 65 536 real tokens and leaves room for the answer.
"""
from __future__ import annotations

import random
from collections.abc import Callable


def phrases(text: str) -> list[str]:
    """The phrases of a list written with bars; line breaks don't count."""
    return [phrase for part in text.split("|") if (phrase := " ".join(part.split()))]


PROSE_CHARS, ARCHIVE_CHARS = 4.5, 3.6  # per nominal token
QUESTION_CHARS = 500  # what instructions and question take

PLACE_A = """
Alder Amber Ash Barrow Birch Black Bleak Bram Bright Broad Cairn Calder Cinder Clay Clover Copper Cray Crow Dane Dusk Elm Ember Fallow
Fen Fern Flint Fox Gale Glass Gorse Gray Hale Harrow Hazel Heath Heron Hollow Iron Ivy Kestrel Kiln Lark Larch Linden Loam Marl Marsh
Mill Moor Moss North Oak Otter Pale Peat Pike Raven Reed Rook Rowan Rush Sable Salt Sand Sedge Shale Silver Slate Sorrel Starling Stone
Swift Tarn Teal Thistle Thorn Umber Vale Warren Weir West Willow Wren Yarrow
""".split()
PLACE_B = """
Bank Barrow Bay Beacon Bridge Brook Cliff Close Cove Cross Crest Dale Down Edge End Fall Field Ford Gap Gate Glen Green Grove Haven Head
Heath Hill Hollow Holm Hurst Isle Lake Landing Lea Ledge Marsh Mere Mount Moor Pass Peak Point Pond Reach Ridge Rise Rock Shore Slope
Spring Stead Tor Vale View Wick Wood
""".split()
FIRST = """
Ada Aldo Alma Anton Arne Astrid Bela Bruno Carla Cato Celia Clara Dario Dina Edda Egon Elin Elsa Emil Enzo Erika Ewan Fanny Felix Flora
Freya Gerd Greta Gunnar Hanna Hedda Hugo Ida Ilse Inga Ivo Jonas Judit Karin Kaspar Klara Lars Lena Leon Lotte Magda Malte Marta Mats
Mila Nadja Nils Nora Olaf Olga Oskar Paula Petra Pia Rafe Rosa Runa Sigrid Silas Sonja Stefan Svea Tage Thea Tilda Tove Ulla Una Vera
Viktor Wanda Yrsa Zita
""".split()
LAST = """
Aalto Abram Albers Anders Arden Bauer Beck Berg Bexley Blom Borg Brandt Brisk Carver Castel Conrad Corbin Dahl Decker Dorn Drake Ebert
Eklund Ellery Engel Falk Farrow Fink Forster Frost Garner Gerber Gloss Graf Grover Haas Hagen Halver Hart Heller Holt Ivarsen Jarvis
Jost Juhl Kantor Karlin Keller Kirsch Kolb Krantz Lange Larkin Lenz Lind Lorenz Lund Marlow Mauer Merz Moll Nagel Neri Norling Oberg
Orban Ostrom Palmer Pohl Quist Rask Renner Ridder Roth Sachs Sander Sandoz Schell Sorge Stahl Strand Tamm Thorne Torvik Ulrich Vance
Varga Vogel Voss Walden Weiss Winter Wolff Ziegler
""".split()
ADJECTIVES = """
brown calm careful cold common dim distant dry early empty faint fine flat grey heavy idle late lean light lonely long loose low mild
narrow neat old open pale patient plain quiet rough round rusty sharp short slow small soft spare steep still stout tall thin tidy usual
warm wet wide worn young
""".split()
NOUNS = """
barn bell bench boat boiler box bridge broom bucket candle cart chimney clock coat corner curtain ditch door drawer fence floor footpath
garden gate hedge kettle kitchen ladder lamp ledger mirror notebook orchard oven paddle path pier porch pump rail roof rope sail shed
shelf shutter sledge stair stove stream table tent tower trail valley wagon wall well wheel window yard
""".split()
VERBS = """
creaked cooled darkened dried emptied faded filled froze glowed hummed leaned lingered loosened moved quietened rattled rested returned
rusted sagged settled shifted shook sank slipped stayed steamed stirred swayed thawed tilted waited warmed weathered
""".split()
WHEN = phrases("""
after breakfast|after the rain|all afternoon|as usual|at dawn|at dusk|before supper|between two showers|by lamplight|
during the thaw|for an hour|in the evening|in the first frost|in the wind|late in the day|long after midnight|most mornings|
now and then|on market day|once more|over the winter|that spring|through the night|toward noon|under a low sky|
until the bell rang|while nobody looked|with the tide|without a sound|year after year
""")
FRAMES = (
    "The {a} {n} {v} {w}.",
    "A {a} {n} {v} near the {a2} {n2} {w}.",
    "Beside the {n}, the {a} {n2} {v} {w}.",
    "Nobody minded that the {n} {v} {w}.",
    "The {n} and the {a} {n2} {v} {w}.",
    "Someone wrote that the {a} {n} {v}, though the {n2} did not.",
    "It was {a} weather, and the {n} {v} {w}.",
    "They mended the {n} because the {a} {n2} {v} {w}.",
)


def filler(rng: random.Random) -> str:
    """One sentence of 40 to 80 characters that answers no question: no name, no number."""
    pick = rng.choice
    return pick(FRAMES).format(a=pick(ADJECTIVES), n=pick(NOUNS), v=pick(VERBS), w=pick(WHEN), a2=pick(ADJECTIVES), n2=pick(NOUNS))


def place(rng: random.Random) -> str:
    """Two words, such as Tarn Hollow; about 4 400 exist."""
    return f"{rng.choice(PLACE_A)} {rng.choice(PLACE_B)}"


def person(rng: random.Random) -> str:
    """First and last name; about 7 000 exist."""
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def distinct(rng: random.Random, make: Callable[[random.Random], str], count: int, taken: set[str]) -> list[str]:
    """`count` different results of make(rng), none in `taken`; adds them to it."""
    out: list[str] = []
    while len(out) < count:
        name = make(rng)
        if name not in taken:
            taken.add(name)
            out.append(name)
    return out


def chars(tokens: int, per_token: float) -> int:
    """How many characters of text make a prompt of this many nominal tokens."""
    return int(tokens * per_token) - QUESTION_CHARS
