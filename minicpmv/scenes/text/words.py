"""Words that scenes print. A word belongs to exactly one split, decided by a checksum of its
letters.
"""

import functools
import random
import zlib

_WORDS = """
able about above accept access account across active actor add admit adult advice afraid after again
age agree air alarm album alive allow almost alone along also always amount anger angle animal
answer ant any apple april area argue arm around arrive art article aside ask august aunt author
autumn avoid awake away axe baby back bad bag balance balcony ball banana band bank barn basic
basket bat bath battle beach bean bear become bed bee before begin behind believe bell below belt
bench beside best better between beyond big bike bill bird birth bitter black blanket blind block
blood blow blue board boat body boil bold bone book boot border borrow both bottle bottom bowl box
boy branch brave bread break breath brick bridge bright bring broad broken broom brother brown brush
budget build bullet burn bus busy butter button buy cabin cable cake call calm camel camera camp
canal cancel candle candy cap capital car carbon card care carpet carry cart case cash castle cat
catch cause cave celery center century certain chain chair chance change chapel charge chart cheap
check cheese cherry chest chicken chief child choice choose church cinema circle circus city class
clay clean clear clever client climb clinic clock close cloth cloud club clue coal coast coat coffee
coin cold collar collect color column comb comfort common company compare concert confirm connect
contact contain control cook cool copper copy cork corn corner correct cost cotton could council
count country couple course court cousin cover cow crab cream create credit crime cross crow crowd
crown cruel cry culture cup current curtain curve custom cut cycle daily damage dance danger dark
data date daughter day dead dear debate debt december decide deep deer degree delay deliver demand
dentist deny depend depth desert design desk detail device diamond diary diet differ digital dinner
direct dirty discover discuss dish distance divide doctor dog doll door double doubt dove down dozen
draft drama draw drawer dream dress drink drive drop drum dry duck due during dust duty each eagle
ear early earn earth east easy eat edge editor effect effort egg eight either elbow eleven empty end
enemy energy engine enjoy enough enter entry equal error escape estate even evening event ever every
exact exam example except excuse exist exit expect expert explain express extra eye fabric face fact
factory fail fair faith fall false family famous fan far farm fashion fast father fault favor fear
feather feature february fee feed feel fellow fence festival few fiber fiction field fifth fifty
fight figure file fill film final find fine finger finish fire first fish fit five fix flag flame
flash flat flight float floor flour flow flower fly fold follow food foot foreign forest forget fork
form formal former forty forward four fox frame free freedom fresh friday friend frog front frost
frozen fruit full fun funny future gain gallery game gap garage garden garlic gas gate gather
general gentle ghost giant gift ginger girl give glad glass global glory glove goal goat gold golf
good goose grade grain grand grant grape graph grass gravel gray great green greet grey ground group
grow growth guard guess guest guide guilty guitar gum habit hair half hall ham hammer hand happy
harbor hard harm harvest hat have hawk head health hear heart heat heavy height hello help hen here
hero hidden high hill hire history hit hobby hold hole holiday holy home honest honey hook hope horn
horse hospital hotel hour house how huge human hundred hunger hunt hurry husband ice idea image
impact import inch income increase index indoor industry inform injury ink inner input insect inside
install instead insult intend invite iron island issue item jacket jam january jar jazz jeep jet job
join joke journey joy judge juice july jump june jungle junior jury just justice keep kettle key
kick kid kind king kiss kitchen kite knee knife know label labor ladder lady lake lamb lamp land
language laptop large last late laugh laundry law lawyer layer lazy lead leader leaf league learn
least leather leave lecture left leg legal leisure lemon lend length less lesson letter level
liberty library license life lift light like limit line link lion lips liquid list listen little
live lizard load loan local lock log logic long look loose lose lost loud love low loyal lucky
lumber lunch machine mad magic mail main major make male manage manner many map march margin mark
market marry mask master matter may maybe meadow meal mean measure meat medal media medical meet
melon member memory mention menu mercy merit message metal method middle might mile milk mind mine
minor mint minus minute mirror miss mix mobile model modern moment monday money monitor monkey month
mood moon moral more morning most moth mother motion motor mount mouse mouth move movie much mud
muscle museum mushroom music must mystery nail name narrow nation native nature near neat neck need
needle nephew nerve nest net network never new news next nice nickel night nine noble nobody noise
none noon normal north nose notice novel november now nuclear number nurse nut oak object observe
ocean october odd offer office officer often oil old olive once one onion only open opera opinion
option oral orange orbit order organ origin other our out outside oven over owl own owner oxygen
pack package page pain paint pair palace palm pan panel panic paper parcel parent park parking part
partner party pass past path patient pattern pause pay peace peach pear pen pencil people pepper
perfect perhaps period permit person phone photo phrase piano picnic picture piece pig pillow pilot
pin pink pipe pitch pizza place plain plan plane planet plant plastic plate platform play player
please plenty plus pocket poem poet point poison polar police policy polite pond pool poor popular
port portion post poster pot potato pound powder power praise prefer prepare present press pretty
prevent price pride primary print prison private prize problem process produce profit program
project promise proof proper protect proud prove public pull pump punch pupil purple purpose push
put puzzle quality quarter queen question quick quiet quilt quite quote rabbit race radio rail rain
raise ranch random range rapid rare rate rather raw reach react read ready real reason recall
receipt receive recent recipe record recover red reduce refer region regret relax release remain
remote remove rent repair repeat reply report request rescue research reserve resist respect rest
result return review reward rhythm ribbon rice rich rid ride right ring rise risk rival river road
roast robin robot rock role roll romance roof room root rope rose rough round route row royal rubber
ruby rug ruin rule run rural rush sad safe safety sail sailor salad sale salt same sample sand
sandwich satisfy saturday sauce sausage save say scale scene scheme scholar school science score
scratch screen script sea seal search season seat second secret section secure see seed seek seldom
select sell send senior sense sentence separate september series serious servant serve service
session set settle seven several severe sew shade shadow shake shallow shame shape share sharp shed
sheep sheet shelf shell shelter shift shine ship shirt shock shoe shoot shop short should shoulder
shout show shower shut sick side sight sign signal silent silk silver similar simple since sing
single sink sister sit site six size skill skin skirt sky sleep slice slide slight slip slow small
smart smell smile smoke smooth snail snake snow soap social sock soft soil soldier solid solve some
son song soon sorry sort soul sound soup source south space spare speak special speech speed spell
spend spice spider spirit split spoon sport spot spread spring square staff stage stair stale stamp
stand standard star start state station status stay steady steak steal steam steel steep step stick
still stock stomach stone stop storage store storm story strange straw stream street stress stretch
strike string strip strong student studio study stuff style subject success such sudden suffer sugar
suggest suit summer sun sunday supper supply support sure surface surprise survey swan sweet swim
switch symbol system table tail take talent talk tall tank tape target task taste tax taxi tea teach
team tear tell ten tennis tent term test text than thank theater theme theory thick thin thing think
third thirty this though thread three throat through throw thumb thunder thursday ticket tide tidy
tie tiger tight time tin tiny tip tired title toad toast today toe together tomato tomorrow tone
tongue tonight too tool tooth top topic total touch tour toward tower town toy track trade traffic
trail train transfer travel tray treat tree trend trial trick trip trouble trousers truck true trust
try tube tuesday tulip tune tunnel turkey turn twelve twenty twice twin two type ugly uncle under
union unique unit unity until upper urban use useful usual vacuum valid valley value van vase vast
vegetable vehicle version very vest victory video view village violet violin virtue vision visit
vital voice volume vote wage wagon wait wake walk wall wallet want war warm warn wash waste watch
water wave wax weak wealth weapon wear weather web wedding wednesday week weight welcome well west
wet whale what wheat wheel when where which while whisper white who whole why wide wife wild will
willing wind window wine wing winner winter wire wise wish with within without witness wolf woman
wonder wood wool word work worker world worry worth would wound wrap wrist write wrong yard year
yellow yes yesterday yet young your youth zebra zero zoo
"""
_VOCABULARIES = {
    "first name": """
    Ada Adam Alan Alice Amy Ana Andrew Anna Anton Arthur Ben Bella Bob Boris Carl Carla Carol Celia
    Chen Chloe Clara Cora Dan Daniel David Diana Dora Edith Edward Elena Eli Emil Emily Emma Eric
    Erin Eva Felix Fiona Frank Freya Fred George Gina Grace Greta Hana Hannah Harry Hassan Hugo Ian
    Ida Ines Iris Isaac Ivan Jack James Jane Jin Joan John Jonas Julia Karen Karl Kate Kim Kira Lara
    Laura Lena Leo Liam Lily Linda Lisa Lucas Lucy Luis Maya Marco Maria Mark Martha Martin Mary Max
    Mia Mila Mona Nadia Nancy Nick Nina Noah Nora Olga Oliver Omar Oscar Otto Paul Paula Peter Petra
    Priya Ralph Rita Robert Rosa Ruth Ryan Sam Sara Simon Sofia Stella Sven Tara Theo Tim Tina Tom
    Uma Vera Victor Wei Wendy Will Yuki Yara Zoe
    """,
    "last name": """
    Adams Allen Baker Bauer Becker Bell Bennett Black Bond Brooks Brown Carter Chan Clark Cole Cook
    Cooper Costa Cruz Davis Diaz Dixon Duarte Ellis Evans Ferrari Fischer Ford Foster Fuchs Garcia
    Gray Green Hall Harris Hayes Hill Hughes Hunt Ito Jackson Jensen Jones Kaiser Keller Kelly Khan
    King Klein Kumar Lang Lee Lewis Lopez Mason Meyer Miller Mills Moore Morgan Morris Murphy Nelson
    Novak Olsen Owens Park Parker Patel Perez Perry Price Reed Reyes Rivera Roberts Romano Ross
    Rossi Sato Schmidt Scott Shaw Silva Singh Smith Stone Tanaka Taylor Torres Tran Turner Vogel
    Wagner Walker Wang Ward Watson Weber West White Wilson Wolf Wood Wright Yang Young Zhang
    """,
    "city": """
    Athens Austin Basel Beijing Berlin Bern Bogota Boston Bremen Bruges Cairo Chicago Cologne Dakar
    Dallas Delhi Denver Dover Dresden Dublin Dubai Essen Geneva Genoa Ghent Glasgow Hanoi Havana
    Helsinki Houston Jakarta Kyiv Kyoto Lagos Leeds Leipzig Lima Lisbon London Lyon Madrid Manila
    Miami Milan Minsk Monaco Moscow Mumbai Munich Nairobi Naples Oslo Ottawa Oxford Paris Perth
    Phoenix Porto Prague Quito Reno Riga Rome Salem Seattle Seoul Seville Sofia Sydney Tallinn Tampa
    Tokyo Toronto Tunis Turin Utrecht Venice Verona Vienna Vilnius Warsaw York Zagreb Zurich
    """,
    "item": """
    Apples Bacon Bagel Bananas Beans Beer Biscuits Bread Brownie Burger Butter Cake Candles Carrots
    Cereal Cheese Cherries Chicken Chips Chocolate Coffee Cola Cookies Corn Cream Croissant Donut
    Dates Eggs Figs Fish Flour Garlic Ginger Grapes Ham Honey Jam Juice Ketchup Lemons Lentils
    Lettuce Mangos Milk Muffin Mushrooms Mustard Napkins Noodles Nuts Oats Olives Onions Oranges
    Pancake Pasta Peaches Peanuts Pears Peas Pens Pepper Pie Pizza Plums Popcorn Pork Potatoes
    Pretzel Raisins Rice Rolls Salad Salmon Salt Sandwich Sausage Shampoo Soap Soda Soup Spinach
    Steak Sugar Tape Tea Toast Tofu Tomatoes Towels Tuna Turkey Vinegar Waffles Water Wine Yogurt
    """,
}
HELD_OUT_SHARE = 5  # one word in five is kept for testing


def _is_held_out(word: str) -> bool:
    return zlib.crc32(word.encode()) % HELD_OUT_SHARE == 0


@functools.cache
def words(split: str) -> tuple[str, ...]:
    """The words of a split, in alphabetical order."""
    return tuple(
        word for word in sorted(set(_WORDS.split())) if _is_held_out(word) == (split == "test")
    )


@functools.cache
def vocabulary(sort: str, split: str) -> tuple[str, ...]:
    """The names of one sort that belong to a split: "first name", "last name", "city" or "item"
    (what shops sell), each with its capital.
    """
    return tuple(
        word
        for word in _VOCABULARIES[sort].split()
        if _is_held_out(word.lower()) == (split == "test")
    )


_ONSETS = """
b c d f g h j k l m n p r s t v w x y z br ch cl cr dr fl gr pl qu sh st th tr
"""
_RIMES = """
a e i o u y ai an ar ea ee el en er ick il in ing ion ix on oo op or ot ou um us
"""


def syllables(rng: random.Random) -> str:
    """A word that nobody knows: one to three syllables."""
    onsets, rimes = _ONSETS.split(), _RIMES.split()
    return "".join(rng.choice(onsets) + rng.choice(rimes) for _ in range(rng.randint(1, 3)))
