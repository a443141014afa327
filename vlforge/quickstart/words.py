"""The words that the world prints, and which of them training never sees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

Split = Literal["train", "dev", "test"]

_COMMON = """
    ACE ACID AGE AIR ALE ANT ARCH ARM ARMY ART ASH ATOM AUNT AXE BABY BACK BAG BAKE BALL BAND
    BANK BAR BARN BAT BATH BAY BEAN BEAR BED BEE BELL BELT BIKE BIRD BOAT BONE BOOK BOW BOX BOY
    BREW BUG BULB BUN BUS CAB CAFE CAGE CAKE CAMP CAN CAP CAR CARD CARE CASH CAT CAVE CHEF CHIP
    CITY CLUB COAL COAT COD CODE COIN COOK CORN COW CROW CUBE CUP DATE DAY DEER DEN DESK DICE
    DIG DISH DOCK DOG DOOR DOT DOVE DRUM DUCK DUST EAR EAST ECHO EEL EGG ELF ELK EXIT EYE FACE
    FAN FARM FERN FIG FILM FIRE FISH FIX FLAG FLEX FOG FORK FOX FROG FUEL GAS GATE GEM GIFT GOAT
    GOLD GOLF GUM GYM HAIR HALL HAM HAND HARP HAT HAWK HEN HERB HILL HIVE HOME HOOK HORN HUT ICE
    INK INN IRIS IRON ISLE IVY JAM JAR JAZZ JET JOB JUG JUMP KEY KID KING KITE KIWI KNOT LAB
    LAKE LAMP LAW LEAF LENS LID LIME LION LOCK LOG LOVE MAP MASK MAZE MEAL MENU MILK MINT MIX
    MOON MOTH MUD MUG NAIL NECK NEST NET NEWS NOSE NOTE NOVA NUT OAK OAR OATS OPEN ORB OVEN OWL
    OXEN PAD PAN PARK PATH PEA PEAR PEN PET PIE PIG PINE PIPE PLUM POET POND POST POT QUAY QUIZ
    RAIN RAM RAT RICE RING ROAD ROBE ROCK ROOF ROPE ROSE RUG SAIL SALE SALT SAND SAW SEA SEAL
    SHED SHIP SHOE SHOP SILK SKY SNOW SOAP SOCK SODA SOFA SOUP STAR STEM SUN SWAN TAXI TEA TENT
    TIDE TILE TIN TOE TOMB TOWN TOY TRAM TREE TUBE TUNA UNIT URN VAN VASE VEST VET VIEW VINE VOTE
    WALL WAVE WAX WEB WEST WHEY WIG WIND WINE WING WOLF WOOD WOOL YAK YAM YARD YARN YEAR YEN
    ZERO ZINC ZONE ZOO
"""

WORDS: tuple[str, ...] = tuple(_COMMON.split())
"""Common English words of three and four letters, alphabetical."""
_KNOWN = frozenset(WORDS)

WORDS_OF: dict[Split, tuple[str, ...]] = {
    "dev": WORDS[2::6],
    "test": WORDS[5::6],
    "train": tuple(word for place, word in enumerate(WORDS) if place % 6 not in (2, 5)),
}
"""Four words of six may be trained on; one stands in dev alone, one in test alone."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def draw_word(rng: random.Random, words: Sequence[str], code_share: float) -> str:
    """A word of `words`, or in a share of `code_share` a code: random capitals, as on a plate.

    A code never happens to be one of the common words.
    """
    while rng.random() < code_share:
        code = "".join(rng.choices(_ALPHABET, k=rng.randint(3, 4)))
        if code not in _KNOWN:
            return code
    return rng.choice(words)
