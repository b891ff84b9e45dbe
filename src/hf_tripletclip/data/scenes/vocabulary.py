# SPDX-License-Identifier: Apache-2.0
"""What scenes are made of: nouns with the icon that draws them, colours, patterns, sizes, relations, settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

MDI, FA = "mdi", "fa"  # Material Design Icons 6 (Apache-2.0) and Font Awesome 6 Free Solid (SIL OFL 1.1)


def _icons(font: str, listed: str) -> dict[str, tuple[str, str]]:
    """`noun` or `noun=icon-name`, separated by commas; without a name the icon is called like the noun."""
    icons = {}
    for entry in listed.split(","):
        noun, _, icon = entry.strip().partition("=")
        icons[noun] = (font, icon or noun.replace(" ", "-"))
    return icons


# noun -> (font, icon). The first 24 are the most recognisable, then come 24 more, then the rest.
NOUNS: dict[str, tuple[str, str]] = {
    **_icons(MDI, "cat, fish, bird, spider"),
    **_icons(FA, "car=car-side, bicycle, airplane=plane, rocket"),
    **_icons(MDI, "pine tree, palm tree"),
    **_icons(FA, "apple=apple-whole, mug=mug-hot, chair"),
    **_icons(MDI, "house=home, guitar=guitar-acoustic, key, umbrella, anchor"),
    **_icons(FA, "crown, shirt, star, moon, heart, scissors"),
    # 48
    **_icons(MDI, "rabbit, elephant, duck, owl, snail, butterfly, fire truck, helicopter, sailboat=sail-boat, cactus"),
    **_icons(MDI, "flower, mushroom, leaf, carrot, pizza, ice cream, bottle=bottle-soda-classic, lamp, tent, bell"),
    **_icons(MDI, "hammer, lightbulb, skull, snowflake"),
    # all
    **_icons(FA, "dog, horse, crow, dove, frog, hippo, otter, cow, dragon, shrimp, worm, mosquito, bug"),
    **_icons(FA, "feather, bone, egg, cheese, hotdog, burger, cookie, candy cane, lemon, bread=bread-slice, bacon"),
    **_icons(FA, "wine bottle, wine glass, jar, spoon, blender, couch, bed, bath, toilet, sink, faucet, shower, fan"),
    **_icons(FA, "rug, stairs, igloo, church, mosque, hospital, school, store, warehouse, volcano, mountain"),
    **_icons(FA, "bus=bus-simple, taxi, truck, tractor, motorcycle, train, tram=train-tram, ship, ferry, caravan"),
    **_icons(FA, "wheelchair, baby carriage, sleigh, snowplow, parachute=parachute-box, satellite, robot, ghost"),
    **_icons(FA, "snowman, gift, ring, gem, glasses, mitten, socks, vest, briefcase, suitcase, wallet, ticket"),
    **_icons(FA, "book, pen, pencil, paintbrush, palette, ruler=ruler-horizontal, stapler, paperclip, eraser, broom"),
    **_icons(FA, "bucket, trowel, screwdriver, wrench, magnet, plug, toolbox, lock"),
    **_icons(FA, "compass, camera=camera-retro, binoculars, microscope, stethoscope, syringe, thermometer, pills"),
    **_icons(FA, "phone, laptop, printer=print, keyboard, television=tv, radio, calculator, clock, hourglass"),
    **_icons(FA, "drum, trophy, medal, football, basketball, volleyball, baseball, dumbbell, bomb, shield"),
    **_icons(
        FA, "flag, birthday cake=cake-candles, fire, sun, cloud, rainbow, tornado, tooth, brain, hand, eye, dice"
    ),
    **_icons(MDI, "bee, dolphin, donkey, jellyfish, kangaroo, koala, ladybug, panda, penguin, pig, shark"),
    **_icons(MDI, "snake, tortoise, turkey, turtle, unicorn, corn, peanut, pumpkin, pretzel, popcorn, cupcake, taco"),
    **_icons(MDI, "croissant=food-croissant, pear=fruit-pear, pineapple=fruit-pineapple, watermelon=fruit-watermelon"),
    **_icons(MDI, "cherries=fruit-cherries, grapes=fruit-grapes, teddy bear, kite, balloon, barrel, bridge"),
    **_icons(MDI, "castle, lighthouse, submarine, scooter, skateboard, saxophone, trumpet"),
    **_icons(MDI, "piano, typewriter, telescope, sunglasses, necklace, saw=hand-saw, shovel, rake, pitchfork, bowl"),
    **_icons(MDI, "kettle, toaster, fridge, dresser, wardrobe, mirror, chandelier, mailbox, sword, ufo, sofa"),
}

# What stands before the attributes of nouns that take no "a": "a pair of red scissors", "an ear of yellow corn".
_PAIRS = ("scissors", "glasses", "sunglasses", "socks", "binoculars", "cherries", "pills", "dice")
MEASURES: dict[str, str] = {
    **dict.fromkeys(_PAIRS, "a pair of"),
    "grapes": "a bunch of",
    "bread": "a slice of",
    "watermelon": "a slice of",
    "bacon": "a strip of",
    "corn": "an ear of",
    "popcorn": "a box of",
    "stairs": "a flight of",
}

# noun -> the other nouns that it is also true of. Such nouns never meet in a scene and never replace each other, or
# the caption of a negative would be true of the positive image. The first 24 nouns have none.
INCLUDES: dict[str, frozenset[str]] = {
    "bird": frozenset({"duck", "owl", "crow", "dove", "turkey", "penguin"}),
    "bread": frozenset({"croissant"}),
    "bottle": frozenset({"wine bottle"}),
    "bug": frozenset({"bee", "ladybug", "mosquito", "spider", "butterfly"}),
    "car": frozenset({"taxi"}),
    "chair": frozenset({"wheelchair"}),
    "couch": frozenset({"sofa"}),
    "dresser": frozenset({"wardrobe"}),
    "fish": frozenset({"shark"}),
    "glasses": frozenset({"sunglasses"}),
    "horse": frozenset({"unicorn"}),
    "house": frozenset({"igloo"}),
    "lamp": frozenset({"chandelier", "lightbulb"}),
    "motorcycle": frozenset({"scooter"}),
    "satellite": frozenset({"moon"}),
    "ship": frozenset({"ferry", "sailboat", "submarine"}),
    "shirt": frozenset({"vest"}),
    "shovel": frozenset({"trowel"}),
    "star": frozenset({"sun"}),
    "store": frozenset({"warehouse"}),
    "suitcase": frozenset({"briefcase"}),
    "train": frozenset({"tram"}),
    "trophy": frozenset({"medal"}),
    "truck": frozenset({"fire truck", "snowplow"}),
    "turtle": frozenset({"tortoise"}),
}


def is_true_of(said: str, shown: str) -> bool:
    """Whether a noun is true of what another names: "bird" of a duck, not "duck" of a bird."""
    return said == shown or shown in INCLUDES.get(said, ())


# noun -> itself and the nouns that cannot stand beside it
_RELATED = {noun: {other for other in NOUNS if is_true_of(noun, other) or is_true_of(other, noun)} for noun in NOUNS}


def unrelated(nouns: Sequence[str], present: Iterable[str]) -> list[str]:
    """Those of the nouns that are true of none of the nouns present, nor the other way round."""
    excluded = set().union(*(_RELATED[noun] for noun in present))
    return [noun for noun in nouns if noun not in excluded]


# colour -> RGB of the fill
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 218, 40),
    "green": (34, 139, 52),
    "blue": (30, 85, 220),
    "purple": (128, 40, 170),
    "pink": (255, 130, 190),
    "brown": (121, 70, 28),
    "black": (28, 28, 30),
    "white": (250, 250, 250),
    "gray": (128, 132, 138),
}

PLAIN = "plain"  # the pattern that captions do not mention
PATTERNS = ("striped", "dotted", "checkered")
SIZES = ("small", "large")

# relation -> its synonyms; each takes the other object after it
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over", "directly above"),
    "below": ("below", "under", "underneath"),
}
HORIZONTAL, VERTICAL = ("left", "right"), ("above", "below")


@dataclass(frozen=True)
class Setting:
    """A two-tone background and how captions say it."""

    phrase: str
    top: tuple[int, int, int]
    bottom: tuple[int, int, int]


SETTINGS: dict[str, Setting] = {
    "beach": Setting("on the beach", (150, 205, 235), (238, 214, 165)),
    "snow": Setting("in the snow", (190, 205, 220), (236, 241, 246)),
    "meadow": Setting("in a meadow", (176, 220, 245), (134, 190, 100)),
    "night": Setting("at night", (22, 28, 66), (44, 52, 92)),
    "sunset": Setting("at sunset", (250, 170, 110), (178, 92, 108)),
    "desert": Setting("in the desert", (246, 226, 180), (216, 168, 104)),
    "sea": Setting("at sea", (196, 224, 238), (44, 120, 165)),
    "room": Setting("in a room", (222, 205, 226), (160, 128, 104)),
}

Nouns = int | Literal["all"]


def choose_nouns(nouns: Nouns) -> tuple[str, ...]:
    """
    The nouns of a concept space.

    Args:
        nouns (`int` or `"all"`): How many, from the most recognisable on.

    Raises:
        ValueError: It is less than 4, more than there are, or another word.
    """
    if nouns == "all":
        return tuple(NOUNS)
    if not isinstance(nouns, int) or not 4 <= nouns <= len(NOUNS):
        raise ValueError(f"`nouns` is {nouns!r}; give 4 to {len(NOUNS)}, or 'all'.")
    return tuple(NOUNS)[:nouns]
