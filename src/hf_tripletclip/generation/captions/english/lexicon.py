# SPDX-License-Identifier: Apache-2.0
"""
The words that the rules know how to change: attributes, relations, actions.

A word is replaced only by one that is false of what it is true of: "tall" by "short", not by "large".
"""

from __future__ import annotations

from hf_tripletclip.generation.captions.english import words

IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "goose": "geese",
    "mouse": "mice", "sheep": "sheep", "deer": "deer", "fish": "fish", "knife": "knives", "shelf": "shelves",
    "bookshelf": "bookshelves", "wolf": "wolves", "calf": "calves", "leaf": "leaves", "loaf": "loaves",
    "scarf": "scarves", "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes", "tuxedo": "tuxedos",
    "bison": "bison", "moose": "moose", "ox": "oxen", "snowman": "snowmen", "fireman": "firemen",
    "policeman": "policemen", "aircraft": "aircraft", "wife": "wives", "cactus": "cacti", "half": "halves",
}  # fmt: skip

# Words for a colour, by look: what stands in one group may be true of the same thing.
_COLOUR_GROUPS = (
    "red maroon crimson burgundy",
    "orange",
    "yellow golden gold",
    "green olive",
    "blue turquoise teal navy",
    "purple violet lavender",
    "pink magenta",
    "brown tan beige",
    "black",
    "white cream",
    "gray grey silver",
)
_CLOSE = {"red": "orange pink brown purple", "orange": "red yellow brown pink", "yellow": "orange brown white green",
          "brown": "red orange yellow", "pink": "red purple orange", "purple": "blue pink red", "blue": "purple green",
          "gray": "white black", "white": "gray yellow", "black": "gray", "green": "blue yellow"}  # fmt: skip
LOOK = {word: group.split()[0] for group in _COLOUR_GROUPS for word in group.split()}
PLAIN_COLOURS = tuple(group.split()[0] for group in _COLOUR_GROUPS)
# colour word -> the colours that nobody would call it
COLOURS = {
    word: tuple(colour for colour in PLAIN_COLOURS if colour != look and colour not in _CLOSE[look].split())
    for word, look in LOOK.items()
}
FUR = ("black", "white", "brown", "gray")
NATURE = ("red", "yellow", "green", "brown", "white", "black", "purple")
TINTS = ("blue", "green", "brown", "purple", "pink")  # what may be called dark or light

# attribute -> what replaces it. Of a class only words of the class change places.
_CLASSES: dict[str, dict[str, str]] = {
    "size": {
        "small": "large huge", "large": "small tiny", "big": "small tiny", "little": "huge large",
        "tiny": "huge large",
        "huge": "tiny small", "giant": "tiny small", "enormous": "tiny small", "miniature": "giant huge",
    },
    "height": {"tall": "short", "short": "tall"},
    "length": {"long": "short"},
    "width": {"narrow": "wide", "wide": "narrow", "thick": "thin", "thin": "thick"},
    "age": {
        "young": "elderly", "younger": "older", "older": "younger", "elderly": "young", "old": "new", "new": "old",
        "modern": "antique", "antique": "modern", "vintage": "modern", "ancient": "modern", "contemporary": "antique",
        "old-fashioned": "modern", "adult": "baby", "baby": "adult",
    },
    "material": {
        "wooden": "metal plastic glass concrete", "metal": "wooden plastic cardboard", "metallic": "wooden plastic",
        "plastic": "wooden metal glass", "brick": "wooden glass", "stone": "wooden metal glass",
        "concrete": "wooden brick", "leather": "wooden plastic", "ceramic": "wooden metal", "marble": "wooden plastic",
        "cardboard": "wooden metal", "steel": "wooden plastic", "wicker": "metal plastic", "porcelain": "wooden metal",
        "cement": "wooden brick",
    },
    "pattern": {
        "striped": "polka-dotted plaid checkered", "plaid": "striped polka-dotted",
        "checkered": "striped polka-dotted", "polka-dotted": "striped plaid", "floral": "striped plaid",
        "spotted": "striped",
    },
    "shape": {"round": "square triangular", "square": "round triangular", "rectangular": "round triangular",
              "circular": "square triangular", "oval": "square triangular"},
    "state": {
        "open": "closed", "opened": "closed", "closed": "open", "empty": "full", "full": "empty", "wet": "dry",
        "dry": "wet", "dirty": "clean", "clean": "dirty", "messy": "tidy", "cluttered": "tidy", "tidy": "messy",
        "neat": "messy", "broken": "intact", "dusty": "spotless", "muddy": "clean", "frozen": "steaming",
        "raw": "cooked", "cooked": "raw", "uncooked": "cooked", "unmade": "neatly made", "ripe": "unripe",
        "fresh": "rotten", "rotten": "fresh", "burnt": "raw", "whole": "sliced", "sliced": "whole",
    },
    "scene": {
        "sunny": "rainy", "rainy": "sunny", "cloudy": "clear", "overcast": "sunny", "snowy": "sandy grassy",
        "grassy": "snowy sandy", "sandy": "snowy grassy", "rocky": "grassy", "dark": "bright", "bright": "dark",
        "lush": "barren", "barren": "lush", "crowded": "deserted", "busy": "deserted", "deserted": "crowded",
        "hilly": "flat", "steep": "flat", "calm": "stormy", "foggy": "clear",
    },
    "mood": {"happy": "sad", "sad": "happy", "smiling": "crying frowning", "angry": "happy", "sleeping": "running",
             "sleepy": "alert", "shirtless": "fully dressed", "naked": "fully dressed", "barefoot": "fully dressed"},
    "hair": {"curly": "straight", "straight": "curly", "blonde": "dark-haired", "blond": "dark-haired",
             "bald": "long-haired", "bearded": "clean-shaven"},
    "coat": {"fluffy": "hairless", "furry": "hairless", "shaggy": "hairless"},
    "sex": {"male": "female", "female": "male"},
}  # fmt: skip
ATTRIBUTES = {word: tuple(options.split()) for group in _CLASSES.values() for word, options in group.items()}
ATTRIBUTES.update(dict.fromkeys(("shirtless", "naked", "barefoot"), ("fully dressed",)))
ATTRIBUTES["unmade"] = ("neatly made",)
# What may be said with "is": the others are then verbs, or no opposites.
ALONE = words(
    "open closed empty wet dry dirty clean messy cluttered tidy dusty muddy frozen raw fresh rotten ripe sunny rainy "
    "cloudy overcast snowy grassy sandy crowded busy deserted happy sad angry smiling sleeping shirtless naked "
    "barefoot "
    "wooden round square rectangular striped tall short male female"
)
CLASS_OF = {word: name for name, group in _CLASSES.items() for word in group}

# Said of these attributes before these nouns, it is no attribute of what is seen, or no opposite of it.
_SET_PHRASES = {
    "short": "sleeve sleeves shorts grass", "full": "size moon length view", "clean": "shave",
    "old": "town style fashioned west school friend friends", "dark": "sky skin hair", "square": "feet foot",
    "round": "trip", "straight": "line", "big": "screen top wheel", "dry": "erase", "fresh": "water air",
    "little": "boy girl child kid kids girls boys bit league one ones", "small": "child children boy girl kid kids",
    "baby": "shower carriage", "metal": "detector", "fluffy": "cloud clouds snow", "new": "york year",
    "bright": "light lights sun color colors colour colours smile eyes", "adult": "bear", "plastic": "surgery",
    "long": "way line distance row time jump sleeve sleeves", "brick": "road", "stone": "age",
    "whole": "family group thing", "large": "number amount part variety", "wide": "range variety angle",
    "frozen": "yogurt food",
}  # fmt: skip
SET_PHRASES = {word: words(nouns) for word, nouns in _SET_PHRASES.items()}

# relation -> what replaces it, and what must stand after it: `thing` a noun phrase of a solid thing, `box` of what
# things are in, `slope`, `any` a noun phrase, `other` "each other".
RELATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("on top of", "thing", ("underneath", "behind")),
    ("in front of", "any", ("behind",)),
    ("on the left side of", "any", ("on the right side of",)),
    ("on the right side of", "any", ("on the left side of",)),
    ("to the left of", "any", ("to the right of",)),
    ("to the right of", "any", ("to the left of",)),
    ("on the left of", "any", ("on the right of",)),
    ("on the right of", "any", ("on the left of",)),
    ("on the left", "none", ("on the right",)),
    ("on the right", "none", ("on the left",)),
    ("next to", "thing", ("on top of", "underneath", "far away from")),
    ("next to", "other", ("far away from",)),
    ("beside", "thing", ("on top of", "underneath", "far away from")),
    ("close to", "any", ("far away from",)),
    ("near", "thing", ("on top of", "far away from")),
    ("near", "other", ("far away from",)),
    ("far away from", "any", ("next to",)),
    ("away from", "any", ("towards",)),
    ("towards", "any", ("away from",)),
    ("toward", "any", ("away from",)),
    ("behind", "any", ("in front of",)),
    ("above", "any", ("below",)),
    ("over", "thing", ("under",)),
    ("below", "any", ("above",)),
    ("under", "thing", ("on top of", "above")),
    ("underneath", "thing", ("on top of", "above")),
    ("beneath", "thing", ("on top of", "above")),
    ("inside of", "any", ("outside of",)),
    ("inside", "any", ("outside",)),
    ("outside of", "any", ("inside of",)),
    ("outside", "thing", ("inside",)),
    ("into", "thing", ("out of",)),
    ("out of", "box", ("into",)),
    ("up", "slope", ("down",)),
    ("down", "slope", ("up",)),
    ("between", "any", ("in front of", "behind")),
    ("at", "table", ("under", "on top of")),
    ("in", "box", ("next to", "behind", "under")),
    ("on", "thing", ("under", "next to", "behind")),
    ("atop", "thing", ("underneath", "behind")),
)
SLOPES = words(
    "hill hills stairs steps slope slopes mountain mountainside hillside ladder ramp escalator staircase stairway"
)  # fmt: skip
TABLES = words("table desk counter bar")
# After these "on" does not say where something stands.
ON_NOT_AFTER = words(
    "talking talk talks speaking working playing play plays focused focusing based put putting trying try tricks "
    "trick depending texting typing looking ride riding rides riders rider hanging hang hangs mounted painted written "
    "drawn printed going goes cooking turned works type types surfing skiing skating"
)

# After these verbs "on" and "in" do say so, and "into" says where something goes.
PLACED = words(
    "sitting sits sit standing stands stand lying lies lie laying lays lay sleeping sleeps sleep resting rests rest "
    "perched perches parked placed seated stacked piled displayed arranged set sat served curled lounging lounges "
    "relaxing crouching kneeling balancing left asleep leaning napping stored kept growing laid"
)
MOVING = words(
    "walking walks walk running runs run going goes driving drives jumping jumps jump stepping steps climbing climbs "
    "climb crawling flying flies pulling coming moving heading"
)  # fmt: skip
# What is open or closed to the eye.
OPENED = words(
    "door doors window windows umbrella umbrellas laptop laptops refrigerator fridge oven box boxes suitcase "
    "suitcases book books drawer drawers mailbox trunk lid closet cabinet cabinets gate gates toilet cupboard "
    "microwave dishwasher eyes seat curtains bag luggage"
)  # fmt: skip

# lemma -> (third person, participle, past), where not regular
_IRREGULAR = {
    "sit": "sits sitting sat", "stand": "stands standing stood", "lie": "lies lying lay", "lay": "lays laying laid",
    "run": "runs running ran", "swim": "swims swimming swam", "sleep": "sleeps sleeping slept",
    "ride": "rides riding rode",
    "hold": "holds holding held", "throw": "throws throwing threw", "catch": "catches catching caught",
    "eat": "eats eating ate", "drive": "drives driving drove", "drink": "drinks drinking drank",
    "fly": "flies flying flew",
    "cut": "cuts cutting cut", "hit": "hits hitting hit", "swing": "swings swinging swung",
    "feed": "feeds feeding fed",
    "read": "reads reading read", "write": "writes writing wrote", "wear": "wears wearing wore",
    "sell": "sells selling sold",
    "lead": "leads leading led", "pet": "pets petting petted", "hug": "hugs hugging hugged",
    "drop": "drops dropping dropped",
    "spill": "spills spilling spilled", "kneel": "kneels kneeling knelt", "break": "breaks breaking broke",
    "tear": "tears tearing tore", "bake": "bakes baking baked", "cry": "cries crying cried",
    "carry": "carries carrying carried",
    "ski": "skis skiing skied", "dig": "digs digging dug", "hide": "hides hiding hid", "make": "makes making made",
    "use": "uses using used", "buy": "buys buying bought",
    "sniff": "sniffs sniffing sniffed", "climb": "climbs climbing climbed", "trample": "tramples trampling trampled",
}  # fmt: skip

# Where somebody is: these change among each other, those on the right of a colon only replace.
REST = ("sit", "stand", "lie", "lay", "kneel", "sleep", "crouch")
MOVE = ("run", "walk", "jump", "dance", "swim", "crawl", "march")
_POSTURES = {
    "sit": "stand run jump dance", "stand": "sit lie kneel run sleep", "lie": "stand run jump walk",
    "lay": "stand run jump walk", "kneel": "stand run jump sleep", "sleep": "run jump walk stand",
    "crouch": "stand run sleep", "run": "sit sleep lie", "walk": "sit sleep lie run", "jump": "sit sleep lie",
    "dance": "sit sleep lie", "swim": "sleep walk", "crawl": "run stand", "graze": "sleep run", "pose": "sleep dance",
    "lean": "jump sleep", "perch": "sleep", "smile": "cry frown", "laugh": "cry", "rest": "run jump",
}  # fmt: skip
POSTURES = {lemma: tuple(options.split()) for lemma, options in _POSTURES.items()}
# Along a way only what moves: "walking down", not "sitting down".
_MOTIONS = {"walk": "run crawl", "run": "walk crawl", "jog": "crawl walk", "ski": "walk sled run",
"snowboard": "walk run sled",
            "skateboard": "walk run crawl", "surf": "swim", "march": "run crawl", "crawl": "run"}  # fmt: skip
MOTIONS = {lemma: tuple(options.split()) for lemma, options in _MOTIONS.items()}
WAYS = frozenset(
    [
        "down",
        "up",
        "across",
        "through",
        "along",
        "into",
        "past",
        "around",
        "toward",
        "towards",
        "over",
        "out",
        "from",
        "to",
        "away",
        "off",
        "onto",
    ]
)

# action -> class of what it is done to: what else may be done to that instead, not at the same time
_ACTIONS: dict[str, dict[str, str]] = {
    "hold": {"thing": "throw drop kick", "person": "chase", "animal": "chase wash"},
    "carry": {"thing": "throw kick", "person": "chase", "animal": "chase feed"},
    "ride": {"vehicle": "push wash repair", "animal": "lead chase wash feed", "board": "carry repair throw"},
    "drive": {"vehicle": "push wash repair"},
    "eat": {"food": "throw sell bake"},
    "wear": {"clothing": "hold wash fold carry"},
    "play": {"game": "watch"},
    "cut": {"food": "eat throw", "thing": "hold throw"},
    "cook": {"food": "eat throw sell"},
    "prepare": {"food": "eat throw sell"},
    "bake": {"food": "eat throw sell"},
    "drink": {"drink": "spill pour"},
    "read": {"thing": "tear burn"},
    "throw": {"thing": "catch kick hold"},
    "catch": {"thing": "throw kick drop"},
    "hit": {"thing": "catch hold drop"},
    "swing": {"thing": "drop throw"},
    "kick": {"thing": "catch throw hold"},
    "push": {"thing": "pull", "vehicle": "pull drive"},
    "pull": {"thing": "push", "vehicle": "push"},
    "lead": {"animal": "chase ride wash"},
    "walk": {"animal": "wash carry chase"},
    "feed": {"animal": "chase wash ride", "person": "chase"},
    "pet": {"animal": "chase feed"},
    "hug": {"person": "chase", "animal": "chase feed", "thing": "throw kick"},
    "kiss": {"person": "chase", "animal": "chase"},
    "chase": {"thing": "kick carry", "animal": "carry feed", "person": "hug"},
    "watch": {"animal": "chase feed", "person": "chase hug"},
    "use": {"device": "drop repair throw"},
    "fly": {"kite": "repair carry"},
    "herd": {"animal": "feed ride"},
}
ACTIONS = {
    lemma: {kind: tuple(options.split()) for kind, options in by_kind.items()} for lemma, by_kind in _ACTIONS.items()
}


def forms(lemma: str) -> tuple[str, str, str, str]:
    """Base, third person, participle and past of a verb."""
    if lemma in _IRREGULAR:
        third, participle, past = _IRREGULAR[lemma].split()
        return lemma, third, participle, past
    third = lemma + ("es" if lemma.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if lemma.endswith("e"):
        return lemma, third, lemma[:-1] + "ing", lemma + "d"
    if lemma in ("sled", "jog", "slip"):
        return lemma, third, lemma + lemma[-1] + "ing", lemma + lemma[-1] + "ed"
    return lemma, third, lemma + "ing", lemma + "ed"


KINDS_OF_FORM = ("", "s", "ing", "ed")
# inflected verb -> (lemma, its form), of the verbs that are replaced
VERB_FORMS = {
    text: (lemma, form)
    for lemma in (*POSTURES, *MOTIONS, *ACTIONS)
    for text, form in zip(forms(lemma), KINDS_OF_FORM, strict=True)
}
VERB_FORMS["lay"] = ("lay", "")
VERB_FORMS["laying"] = ("lay", "ing")
VERB_FORMS["lying"] = ("lie", "ing")


def inflect(lemma: str, form: str) -> str:
    """A verb in a form: "" the base, "s", "ing" or "ed"."""
    return forms(lemma)[KINDS_OF_FORM.index(form)]
