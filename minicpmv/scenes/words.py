"""Words that scenes print. A word belongs to exactly one split, decided by a checksum of its
letters.
"""

import functools
import random
import zlib

_WORDS = """
ant apple arm art axe baby back bag ball bank barn bat bath beach bean bear bed bee bell belt bench
bike bird boat body bone book boot bowl box boy bread brick bridge broom brush bus cake camel camp
candle candy cap car card cart cat cave chain chair cheese city clay clock cloud coal coast coat
coffee coin comb cook cork corn cow crab cream crow crown cup dance day deer desk dish doctor dog
doll door dove dream dress drum duck dust eagle ear east egg engine exit eye face farm field film
fire fish flag flame flour flower fly foot forest fork fox frog fruit game garden gate ghost gift
girl glass glove goat gold golf goose grape grass hair hall ham hand harbor hat hawk head hen hill
hook horn horse hotel house ice ink iron island jacket jam jar jazz jeep jet juice jump jungle key
king kitchen kite knee knife lady lake lamb lamp land leaf leg lemon letter light lion lips lizard
lock log lunch magic mail map mask meal meat metal milk mint mirror money monkey month moon moth
mouse mouth mud music nail name neck nest net night north nose nurse nut oak oil olive onion open
orange oven owl page paint palm pan paper park path peach pear pen pepper piano pig pilot pin pipe
plane plant plate pond pool pot potato queen quiet quilt rabbit radio rain ranch rice ring river
road robin robot rock roof room root rope rose ruby sail salad salt sand school sea seal seed sheep
shelf shell ship shirt shoe shop silk silver sink sky snail snake snow soap sock soup south spoon
spring square stamp star stone stop storm straw sugar suit summer sun swan table taxi tea tent
tiger toad toast tomato tool tooth tower town toy train tray tree truck tulip valley van vase vest
village violin wagon wall watch water wave wax west whale wheat wheel wind window wine wing winter
wolf wood wool yard year zebra zero zoo
"""
HELD_OUT_SHARE = 5  # one word in five is kept for testing


@functools.cache
def words(split: str) -> tuple[str, ...]:
    """The words of a split, in alphabetical order."""
    held_out = split == "test"
    return tuple(
        word
        for word in sorted(set(_WORDS.split()))
        if (zlib.crc32(word.encode()) % HELD_OUT_SHARE == 0) == held_out
    )


_ONSETS = (*"bcdfghjklmnprstvwz", "br", "ch", "cl", "cr", "dr", "fl", "gr", "pl", "qu", "sh", "st")
_ONSETS += ("th", "tr", "x", "y")
_RIMES = ("a", "e", "i", "o", "u", "ai", "an", "ar", "ea", "ee", "el", "en", "er", "ick", "il")
_RIMES += ("in", "ing", "ion", "ix", "on", "oo", "op", "or", "ot", "ou", "um", "us", "y")


def syllables(rng: random.Random) -> str:
    """A word that nobody knows: one to three syllables."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_RIMES) for _ in range(rng.randint(1, 3)))
