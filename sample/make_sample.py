"""The sample: small question-answering data sets and three small checkpoints, made from nothing.

What belongs here: the word lists and sentence templates of an invented world, the generator that turns them
into documents with questions (SQuAD v1.1 and v2.0 layouts), and the training of three DistilBERT checkpoints
that answer those questions.  Everything comes from a fixed seed; nothing is downloaded.

    python sample/make_sample.py                            # rebuilds all of it next to this script
    python sample/make_sample.py --output_dir DIR --data_only   # the four data files alone, in seconds

How the data is made.  A document tells of several entities of one kind (people, ships, towns, companies, bridges
and towers, expeditions, festivals, novels), each with several facts, so that every question finds rival answers
of its own type in the text.  Names on the dev side are word combinations that the train side never uses.  One
document in nine is long: most of these need several windows of 384 tokens.

How the checkpoints are made.  The deepest one, the teacher, is trained on some tens of thousands of questions to
newly made documents of the train side, a quarter of them without an answer; the smallest one starts from three of
its layers and is trained in the same way, with the teacher's logits as a second target.  These two are so small that
trainings of them take seconds, and int8 gains nothing.  The wide one is for seeing int8 at work: two layers of the
smallest, made as wide as those of models of use and trained once more.
"""

import argparse
import json
import math
import random
import re
import string
import time
from collections import Counter
from pathlib import Path

SEED = 20240
MAX_LENGTH, DOC_STRIDE, N_BEST, MAX_ANSWER = 384, 128, 20, 30

VOCABULARY = 1900
STUDENT = {"dim": 128, "n_layers": 3, "n_heads": 4, "hidden_dim": 256}
TEACHER = {"dim": 128, "n_layers": 5, "n_heads": 4, "hidden_dim": 256}
WIDE = {"dim": 384, "n_layers": 2, "n_heads": 4, "hidden_dim": 1024}
KEPT_LAYERS = (0, 2, 4)
# One thread: the same sums in the same order wherever it runs, and no slower where the second core is busy.
THREADS = 1
BATCH_TOKENS = 2500
TEMPERATURE = 2.0
TEACHER_STAGES = [
    (300, {"tiny": 1}),
    (400, {"tiny": 1, "short": 3}),
    (800, {"short": 2, "usual": 4, "long": 0.4}),
]
STUDENT_STAGES = [(100, {"tiny": 1, "short": 3}), (450, {"short": 2, "usual": 4, "long": 0.4})]
WIDE_STAGES = [(50, {"tiny": 1, "short": 3}), (250, {"short": 2, "usual": 4, "long": 0.4})]
# What each weight is moved by at most, as a share of it, so that the copies of a channel do not stay the same.
PARTING = 0.1

# ------------------------------------------------------------------------------------------------------------
# Word lists.  Names are pairs of words; which pairs belong to train and which to dev is settled in `pair`.
# ------------------------------------------------------------------------------------------------------------


def words(text):
    """The words of a list."""
    return text.split()


WOMEN = words(
    "Mara Elsa Ingrid Clara Noémi Tilda Agnes Beatriz Odette Selma Renata Ottilie Zélie Helga Marit Johanna Vera "
    "Lucinda Petra Amalia Greta Sólveig Irena Dorothea Philippa Camille Edith Rosalind Hanne Ylva"
)
MEN = words(
    "Anton Emil Bruno Casper Tomás Henrik Oskar Pavel Leopold Rasmus Silvio Viktor Matthias Cornelius Edmund "
    "Aurel Björn Dmitri Fabian Gregor Jasper Konrad Lars Moritz Niels Piet Quentin Stefan Ulrich Wendel"
)
SURNAMES = words(
    "Tolvik Brandel Ostrova Halberg Quintero Marchetti Sørensen Vandermeer Kowalt Lindqvist Ashdown Pellegrin "
    "Drummer Fairweather Grönlund Hawthorn Iversen Jankovic Kestrel Lorimer Montclair Nordahl Orlov Pemberton "
    "Rosewall Santoro Thornbury Ullman Verhoeven Whitlock Yardley Zeller Ackermann Belloni Castellan Dubrow "
    "Ellingham Ferrante Galloway Hargreave Ibáñez Juhl Kirkwall Langstrom Mercer Novak Ohlsen Prescott Rademaker "
    "Stanhope Tennant Umbria Valcourt Wexler Zimmer Albrecht Bexley Cordova Delacroix Eastman"
)
TOWN_FIRST = words("Port Saint New Old Upper Lower East West North South Great Little Castle Mount Fort Glen")
TOWN_SECOND = words(
    "Corvan Brenwick Alder Maren Ostby Tarrow Velden Quarry Lindholm Hesper Dunmore Kelder Ravik Soller Ambry "
    "Norrin Ferris Galt Hollin Istra Jorvin Kasten Lomar Merrow Nessa Orrin Pellan Rusk Selby Torven Ulver Wistan "
    "Yarrow Zorin Ashby Borrel Cadmor Drayle Estrel Fenwick"
)
SHIP_FIRST = words(
    "Silver Northern Crimson Patient Golden Restless Iron Wandering Blue Gallant Quiet Swift Emerald Hopeful "
    "Loyal Distant Bright Amber Proud Winter"
)
SHIP_SECOND = words(
    "Heron Star Falcon Duchess Pilgrim Petrel Arrow Dolphin Mermaid Lantern Tempest Swallow Orion Maiden Trader "
    "Comet Otter Sparrow Horizon Raven Walrus Gannet Voyager Empress"
)
FIRM_FIRST = words(
    "Ambrel Kestrow Daltry Veltrix Orbeck Hallam Pinnock Sunder Trellis Corbin Morrow Linden Bassett Cromer Ellery "
    "Foxley Garland Holloway Ivory Jessop Keller Larkin Norwell Osgood Penrose Radley Stroud Tolland Vickers Wyndham"
)
FIRM_SECOND = words(
    "Mills Works Foundry Brothers Company Press Glassworks Shipyard Brewery Pottery Railways Instruments Textiles "
    "Clocks"
)
LANDMARK_FIRST = words(
    "Queen's Harbour Millstone Weaver's Cathedral Marsh Eagle Bishop's Copper Market Garden Meridian Juniper Granary "
    "Founders' Observatory Swan Tanner's Willow Chapel Crescent Mariner's Orchard Viaduct"
)
LANDMARK_SECOND = words("Bridge Tower Library Theatre Lighthouse Hall Museum Gate Station Aqueduct")
JOURNEY_FIRST = words(
    "Polar Desert Boreal Glacier Coral Steppe Volcano Jungle Tundra Equator Caspian Atlantic Highland Delta Plateau "
    "Monsoon Savanna Island Canyon Magnetic"
)
JOURNEY_SECOND = words("Expedition Survey Voyage Crossing Mission Venture Traverse Journey")
FEAST_FIRST = words(
    "Lanterns Herring Cherry Kite Harvest Candle Barley Midsummer Accordion Pumpkin Salmon Shepherds Puppet Honey "
    "Bonfire Rowing Chestnut Masquerade Snow Tulip"
)
FEAST_SECOND = words("Fair Festival Regatta Parade Games Carnival Gathering Week")
BOOK_FIRST = words(
    "Glass Paper Hidden Burning Salt Broken Velvet Silent Seventh Last Hollow Painted Drowned Stone Borrowed Secret "
    "Endless Forgotten Scarlet Marble"
)
BOOK_SECOND = words(
    "Kingdom Orchestra Letters Staircase River Inheritance Mirror Cartographer Winter Hourglass Island Promise "
    "Labyrinth Neighbour Garden Winds Bells Daughters Ferryman Almanac"
)
RIVERS = words("Ask Morva Teal Lune Orsa Vistra Drenn Kalle Sabor Inver Tamble Rhone Yssel Corda Nairn Ulm")
MONTHS = words("January February March April May June July August September October November December")
NUMBERS = words("two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty")

POOLS = {
    "job": (
        "botanist|clock maker|bridge engineer|portrait painter|cellist|harbour pilot|schoolteacher|chemist|"
        "newspaper editor|court physician|map maker|astronomer|stage actor|judge|glass blower|sculptor|geologist|"
        "violin maker|translator|baker"
    ),
    "hobby": (
        "collecting beetles|playing chess|baking bread|keeping bees|mending clocks|mountain walking|fencing|"
        "playing the oboe|growing orchids|carving wooden birds|watching stars|winter swimming|juggling|"
        "restoring old maps|training falcons|ice skating"
    ),
    "illness": (
        "pneumonia|a fall from a horse|typhoid fever|a boating accident|a weak heart|old age|snow blindness|"
        "lead poisoning|malaria|a carriage accident|tuberculosis|a burst appendix"
    ),
    "cargo": (
        "coffee|timber|raw cotton|salted fish|copper ore|machine parts|olive oil|grain|wool|roof tiles|dried fruit|"
        "sugar|silk|coal|marble blocks|whale oil|tea|live cattle"
    ),
    "fate": (
        "a sudden storm|a fire in the hold|a hidden reef|thick fog|a collision with a ferry|drifting ice|"
        "an exploding boiler|a mutiny|a broken rudder|enemy gunfire|a lightning strike|rotten planks"
    ),
    "product": (
        "lace|brass telescopes|goat cheese|blue pottery|steam pumps|church organs|leather gloves|printing ink|"
        "sewing machines|cherry brandy|fishing nets|porcelain dolls|bicycles|fine paper|kitchen knives|wool carpets|"
        "pocket watches|smoked ham"
    ),
    "trouble": (
        "a shortage of timber|rising taxes|a long strike|cheap foreign goods|a warehouse fire|the loss of its patents|"
        "a banking crisis|poor management|the price of steel|a quarrel between partners|a cholera outbreak|"
        "a failed harvest"
    ),
    "stone": (
        "red granite|yellow brick|white limestone|cast iron|oak beams|black basalt|grey sandstone|riveted steel|"
        "polished marble|reinforced concrete|green slate|river clay"
    ),
    "damage": (
        "an earthquake|a spring flood|a gas explosion|a great fire|a runaway barge|heavy snow|a hurricane|"
        "artillery shells|a landslide|woodworm|a falling crane|years of neglect"
    ),
    "goal": (
        "a northern sea route|the source of the river|rare medicinal plants|a lost monastery|an ancient inscription|"
        "a new trade road|fossil whales|a total solar eclipse|the nesting grounds of geese|a safe mountain pass|"
        "deposits of tin|traces of an earlier party"
    ),
    "food": (
        "plum dumplings|pickled eels|honey cakes|roast chestnuts|barley soup|fried sardines|walnut bread|"
        "apple pancakes|stuffed cabbage|ginger biscuits|grilled mackerel|poppy seed rolls"
    ),
    "prize": (
        "a silver cup|a barrel of cider|a painted drum|a gold coin|a carved staff|a white pony|a crown of ivy|"
        "a bronze bell|a velvet cloak|a year of free bread|a pair of oxen|a pewter plate"
    ),
    "topic": (
        "a stolen inheritance|rivalry between two sisters|life in a lighthouse|a doctor's exile|the end of a monarchy|"
        "a shipwrecked orphan|a secret marriage|a village without water|the education of a thief|a mother's silence|"
        "a forged painting|revenge among bankers"
    ),
    "weekday": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
}
POOLS = {name: choices.split("|") for name, choices in POOLS.items()}

# ------------------------------------------------------------------------------------------------------------
# Kinds of entity.  `values`: the facts and the type of each.  `sentences`: one to three facts apiece, {s} standing
# for the entity.  `questions`: the ways to ask for each fact.  `inverse`: the ways to ask for the entity by a fact.
# ------------------------------------------------------------------------------------------------------------

KINDS = {
    "person": {
        "title": "Lives of notable people",
        "values": {
            "birth_year": "year",
            "birth_town": "town",
            "job": "job",
            "novel": "book",
            "teacher": "person",
            "spouse": "person",
            "hobby": "hobby",
            "death_year": "year",
            "death_cause": "illness",
            "children": "number",
        },
        "sentences": [
            "{s} was born in {birth_town} in {birth_year}.",
            "{s} was born in {birth_year}.",
            "It was in {birth_year} that {s} was born, the youngest in a large family.",
            "{s} came from {birth_town}.",
            "{s}, a native of {birth_town}, worked as a {job}.",
            "{s} earned a living as a {job}.",
            "By profession {s} was a {job} and had learned the trade from {teacher}.",
            "{s} studied under {teacher}.",
            "The teacher of {s} was {teacher}.",
            "{s} married {spouse}.",
            "{s} married {spouse}, and the couple had {children} children.",
            "{s} raised {children} children.",
            "{s} spent much free time {hobby}.",
            "Friends remembered that {s} was fond of {hobby}.",
            "{s} died in {death_year}.",
            "{s} died of {death_cause} in {death_year}.",
            "The death of {s} was put down to {death_cause}.",
            "The favourite novel of {s} was {novel}.",
            "{s} often read aloud from {novel}, a much loved novel.",
        ],
        "questions": {
            "birth_year": [
                "When was {s} born?",
                "In what year was {s} born?",
                "What is the birth year of {s}?",
                "In which year did {s} come into the world?",
            ],
            "birth_town": [
                "Where was {s} born?",
                "Which town did {s} come from?",
                "What was the home town of {s}?",
                "In which town was {s} born?",
            ],
            "job": [
                "What was the profession of {s}?",
                "What did {s} do for a living?",
                "What did {s} work as?",
                "How did {s} earn a living?",
            ],
            "novel": [
                "Which novel did {s} like best?",
                "What was the favourite novel of {s}?",
                "Which book did {s} love?",
            ],
            "teacher": [
                "Who taught {s}?",
                "Under whom did {s} study?",
                "Who was the teacher of {s}?",
                "From whom did {s} learn?",
            ],
            "spouse": ["Whom did {s} marry?", "Who was {s} married to?", "What was the name of the spouse of {s}?"],
            "hobby": [
                "What was the hobby of {s}?",
                "What did {s} enjoy in free hours?",
                "Which pastime was {s} fond of?",
            ],
            "death_year": ["When did {s} die?", "In what year did {s} die?", "What was the year of the death of {s}?"],
            "death_cause": ["What did {s} die of?", "What caused the death of {s}?", "How did {s} die?"],
            "children": [
                "How many children did {s} have?",
                "How many children were raised by {s}?",
                "What was the number of children of {s}?",
            ],
        },
        "inverse": {
            "teacher": ["Who was taught by {v}?", "Who was a pupil of {v}?"],
            "spouse": ["Who married {v}?"],
            "hobby": ["Who liked {v}?"],
            "job": ["Who was a {v}?", "Who worked as a {v}?"],
        },
    },
    "ship": {
        "title": "Ships of the old trade",
        "generic": "The ship",
        "values": {
            "built": "year",
            "yard": "town",
            "captain": "person",
            "cargo": "cargo",
            "length": "metres",
            "crew": "sailors",
            "lost": "date",
            "fate": "fate",
            "owner": "firm",
        },
        "sentences": [
            "{s} was built at {yard} in {built}.",
            "{s} was launched in {built}.",
            "Shipwrights in {yard} built {s}.",
            "{s} was commanded by {captain} and carried {cargo}.",
            "{captain} was captain of {s} for many years.",
            "On most voyages {s} carried {cargo}.",
            "{s} measured {length} from bow to stern.",
            "At {length}, {s} was too long for the inner harbour.",
            "{s} sailed with a crew of {crew}.",
            "{crew} served aboard {s}.",
            "{s} sank on {lost}.",
            "{s} was lost on {lost} because of {fate}.",
            "The loss of {s} was blamed on {fate}.",
            "{s} belonged to {owner}.",
            "{owner} owned {s} and insured the hull.",
        ],
        "questions": {
            "built": ["When was {s} built?", "In what year was {s} launched?", "Which year was {s} completed in?"],
            "yard": ["Where was {s} built?", "In which town was {s} built?", "What town built {s}?"],
            "captain": ["Who was the captain of {s}?", "Who commanded {s}?", "Under which captain did {s} sail?"],
            "cargo": ["What did {s} carry?", "What was the cargo of {s}?", "Which goods were carried by {s}?"],
            "length": ["How long was {s}?", "What was the length of {s}?", "What did {s} measure from bow to stern?"],
            "crew": ["How many sailors served on {s}?", "How large was the crew of {s}?", "What crew did {s} have?"],
            "lost": ["When did {s} sink?", "On what date was {s} lost?", "On which day did {s} go down?"],
            "fate": ["What caused the loss of {s}?", "Why did {s} sink?", "What was blamed for the loss of {s}?"],
            "owner": ["Who owned {s}?", "Which firm owned {s}?", "To whom did {s} belong?"],
        },
        "inverse": {
            "captain": ["Which ship did {v} command?", "What ship was {v} captain of?"],
            "cargo": ["Which ship carried {v}?"],
            "owner": ["Which ship was owned by {v}?"],
            "fate": ["Which ship was lost because of {v}?"],
        },
    },
    "town": {
        "title": "Towns of the province",
        "generic": "The town",
        "values": {
            "population": "people",
            "river": "river",
            "founded": "year",
            "mayor": "person",
            "product": "product",
            "height": "metres",
            "market": "weekday",
            "rail": "year",
            "sight": "landmark",
        },
        "sentences": [
            "{s} lies on {river}.",
            "{s} lies on {river}, at a height of {height} above the sea.",
            "{s} stands {height} above the sea.",
            "{s} has a population of {population}.",
            "About {population} live in {s}.",
            "{s} was founded in {founded}.",
            "Settlers founded {s} in {founded}, and the railway followed in {rail}.",
            "The railway reached {s} in {rail}.",
            "The mayor of {s} is {mayor}.",
            "{mayor} was elected mayor of {s}.",
            "{s} is known for {product}.",
            "The workshops of {s} turn out {product}.",
            "The weekly market in {s} takes place on {market}.",
            "{s} holds a market every {market}.",
            "Visitors come to {s} for {sight}.",
            "The pride of {s} is {sight}.",
        ],
        "questions": {
            "population": ["How many people live in {s}?", "What is the population of {s}?", "How populous is {s}?"],
            "river": ["On which river does {s} lie?", "What river runs past {s}?", "Which river is {s} on?"],
            "founded": ["When was {s} founded?", "In what year was {s} founded?", "What is the founding year of {s}?"],
            "mayor": ["Who is the mayor of {s}?", "Which mayor does {s} have?", "Who was elected to govern {s}?"],
            "product": ["What is {s} known for?", "What does {s} produce?", "Which goods are made in {s}?"],
            "height": ["How high is {s}?", "At what height does {s} lie?", "How far above the sea is {s}?"],
            "market": [
                "On which day is the market in {s}?",
                "When is the weekly market of {s} held?",
                "What is the market day of {s}?",
            ],
            "rail": [
                "When did the railway reach {s}?",
                "In what year did trains first come to {s}?",
                "Since which year has {s} had a railway?",
            ],
            "sight": [
                "What do visitors see in {s}?",
                "What is the chief sight of {s}?",
                "Which sight is {s} proud of?",
            ],
        },
        "inverse": {
            "mayor": ["Which town has {v} as mayor?", "Of which town is {v} the mayor?"],
            "product": ["Which town makes {v}?", "Which town is known for {v}?"],
            "river": ["Which town lies on {v}?"],
            "sight": ["In which town is {v}?"],
        },
    },
    "firm": {
        "title": "Makers and merchants",
        "generic": "The firm",
        "values": {
            "founded": "year",
            "founder": "person",
            "seat": "town",
            "product": "product",
            "staff": "workers",
            "closed": "year",
            "trouble": "trouble",
            "buyer": "firm",
            "capital": "money",
        },
        "sentences": [
            "{s} was founded by {founder} in {founded}.",
            "{s} was founded in {founded}.",
            "{founder} started {s} with borrowed money.",
            "{s} had its head office in {seat}.",
            "From its offices in {seat}, {s} sold {product}.",
            "{s} made {product}.",
            "{s} employed {staff}.",
            "At its height {s} kept {staff} busy.",
            "{s} closed in {closed}.",
            "{s} ran into difficulties because of {trouble} and closed in {closed}.",
            "{s} was ruined by {trouble}.",
            "{s} was later taken over by {buyer}.",
            "{buyer} bought {s}.",
            "{s} began with a capital of {capital}.",
            "Shareholders put {capital} into {s}.",
        ],
        "questions": {
            "founded": ["When was {s} founded?", "In what year was {s} founded?", "Which year did {s} begin in?"],
            "founder": ["Who founded {s}?", "Who started {s}?", "Who was the founder of {s}?"],
            "seat": [
                "Where was {s} based?",
                "In which town was the head office of {s}?",
                "Which town was the seat of {s}?",
            ],
            "product": ["What did {s} make?", "What was sold by {s}?", "Which goods did {s} produce?"],
            "staff": [
                "How many workers did {s} employ?",
                "How many people worked for {s}?",
                "What was the size of the work force of {s}?",
            ],
            "closed": ["When did {s} close?", "In what year did {s} shut down?", "Which year did {s} end in?"],
            "trouble": ["What ruined {s}?", "Why did {s} run into difficulties?", "What caused the fall of {s}?"],
            "buyer": ["Who bought {s}?", "Which firm took over {s}?", "By whom was {s} taken over?"],
            "capital": [
                "How much capital did {s} begin with?",
                "How much money was put into {s}?",
                "What was the starting capital of {s}?",
            ],
        },
        "inverse": {
            "founder": ["Which firm did {v} found?", "Which firm was started by {v}?"],
            "product": ["Which firm made {v}?"],
            "trouble": ["Which firm was ruined by {v}?"],
        },
    },
    "landmark": {
        "title": "Buildings worth a visit",
        "generic": "The building",
        "values": {
            "architect": "person",
            "opened": "date",
            "cost": "money",
            "material": "stone",
            "height": "metres",
            "place": "town",
            "damage": "damage",
            "repaired": "year",
        },
        "sentences": [
            "{s} was designed by {architect}.",
            "{architect} drew the plans of {s}.",
            "{s} was opened on {opened}.",
            "On {opened} crowds gathered for the opening of {s}.",
            "{s} cost {cost}.",
            "{s} was made of {material} and cost {cost}.",
            "Masons built {s} of {material}.",
            "{s} rises to a height of {height}.",
            "{s}, with a height of {height}, stands in {place}.",
            "{s} stands in {place}.",
            "{s} was badly damaged by {damage}.",
            "{s} was damaged by {damage} and repaired in {repaired}.",
            "Workmen repaired {s} in {repaired}.",
        ],
        "questions": {
            "architect": ["Who designed {s}?", "Who was the architect of {s}?", "Who drew the plans of {s}?"],
            "opened": ["When was {s} opened?", "On what date was {s} opened?", "On which day did {s} open?"],
            "cost": ["How much did {s} cost?", "What was the cost of {s}?", "What sum was spent on {s}?"],
            "material": ["What is {s} made of?", "Which material was {s} built of?", "Of what is {s} built?"],
            "height": ["How high is {s}?", "What is the height of {s}?", "To what height does {s} rise?"],
            "place": ["Where is {s}?", "In which town does {s} stand?", "Which town is {s} in?"],
            "damage": ["What damaged {s}?", "By what was {s} damaged?", "What harmed {s}?"],
            "repaired": [
                "When was {s} repaired?",
                "In what year was {s} repaired?",
                "Which year was {s} restored in?",
            ],
        },
        "inverse": {
            "architect": ["Which building did {v} design?", "What was designed by {v}?"],
            "material": ["Which building is made of {v}?"],
            "damage": ["Which building was damaged by {v}?"],
        },
    },
    "journey": {
        "title": "Expeditions and surveys",
        "generic": "The party",
        "values": {
            "leader": "person",
            "start": "date",
            "port": "town",
            "members": "members",
            "goal": "goal",
            "duration": "days",
            "sponsor": "firm",
            "ship": "ship",
            "doctor": "person",
        },
        "sentences": [
            "{s} was led by {leader}.",
            "{leader} led {s}, and {doctor} served as its doctor.",
            "The doctor of {s} was {doctor}.",
            "{s} set out on {start}.",
            "{s} set out from {port} on {start}.",
            "{port} was the starting point of {s}.",
            "{s} had {members}.",
            "With {members}, {s} was larger than planned.",
            "{s} searched for {goal}.",
            "The aim of {s} was to find {goal}.",
            "{s} lasted {duration}.",
            "After {duration} {s} was over.",
            "{s} was paid for by {sponsor}.",
            "{sponsor} sponsored {s}.",
            "{s} travelled aboard {ship}.",
        ],
        "questions": {
            "leader": ["Who led {s}?", "Who was the leader of {s}?", "Under whose command was {s}?"],
            "start": ["When did {s} set out?", "On what date did {s} begin?", "On which day did {s} leave?"],
            "port": [
                "Where did {s} set out from?",
                "From which town did {s} leave?",
                "What was the starting point of {s}?",
            ],
            "members": ["How many members did {s} have?", "How large was {s}?", "How many people took part in {s}?"],
            "goal": ["What did {s} search for?", "What was the aim of {s}?", "What did {s} hope to find?"],
            "duration": ["How long did {s} last?", "How long did {s} take?", "What was the duration of {s}?"],
            "sponsor": ["Who paid for {s}?", "Which firm sponsored {s}?", "Who was the sponsor of {s}?"],
            "ship": ["Which ship carried {s}?", "On which ship did {s} travel?", "What ship was used by {s}?"],
            "doctor": ["Who was the doctor of {s}?", "Who looked after the sick on {s}?", "Which doctor joined {s}?"],
        },
        "inverse": {
            "leader": ["Which expedition did {v} lead?", "What was led by {v}?"],
            "goal": ["Which expedition searched for {v}?"],
            "sponsor": ["Which expedition was sponsored by {v}?"],
        },
    },
    "feast": {
        "title": "Festivals through the year",
        "generic": "The event",
        "values": {
            "place": "town",
            "month": "month",
            "first": "year",
            "founder": "person",
            "visitors": "people",
            "prize": "prize",
            "food": "food",
            "length": "days",
        },
        "sentences": [
            "{s} is held in {place}.",
            "{s} is held in {place} every {month}.",
            "{s} takes place in {month}.",
            "{s} was first held in {first}.",
            "{founder} began {s} in {first}.",
            "{s} was the idea of {founder}.",
            "{s} draws {visitors} each time.",
            "Some {visitors} come to {s}.",
            "The winner at {s} receives {prize}.",
            "At {s} there is {prize} to be won, and {food} are served.",
            "Guests at {s} eat {food}.",
            "{s} goes on for {length}.",
            "For {length} {s} fills the streets.",
        ],
        "questions": {
            "place": ["Where is {s} held?", "In which town is {s} held?", "Which town hosts {s}?"],
            "month": [
                "In which month is {s} held?",
                "What month does {s} take place in?",
                "In what month can one visit {s}?",
            ],
            "first": ["When was {s} first held?", "In what year was {s} first held?", "Since which year is {s} held?"],
            "founder": ["Who founded {s}?", "Who began {s}?", "Whose idea was {s}?"],
            "visitors": [
                "How many people come to {s}?",
                "How many visitors does {s} draw?",
                "What is the number of visitors of {s}?",
            ],
            "prize": ["What does the winner receive at {s}?", "What is the prize at {s}?", "What can be won at {s}?"],
            "food": ["What do guests eat at {s}?", "Which food is served at {s}?", "What dish is eaten at {s}?"],
            "length": ["How long does {s} last?", "How long does {s} go on?", "What is the length of {s}?"],
        },
        "inverse": {
            "founder": ["Which event did {v} found?", "Which event was the idea of {v}?"],
            "prize": ["At which event can one win {v}?"],
            "food": ["At which event are {v} eaten?"],
        },
    },
    "book": {
        "title": "Novels and their readers",
        "generic": "The novel",
        "values": {
            "author": "person",
            "published": "year",
            "setting": "town",
            "hero": "person",
            "pages": "pages",
            "topic": "topic",
            "publisher": "firm",
            "sold": "copies",
        },
        "sentences": [
            "{s} was written by {author}.",
            "{author} wrote {s} in a rented room.",
            "{s} was published in {published}.",
            "{s} was published by {publisher} in {published}.",
            "{publisher} printed {s}.",
            "{s} is set in {setting}.",
            "{s} plays in {setting} and tells of {topic}.",
            "The subject of {s} is {topic}.",
            "The main character of {s} is {hero}.",
            "{s} follows the fortunes of {hero}.",
            "{s} runs to {pages}.",
            "Readers complained that {s} had {pages}.",
            "{s} sold {sold}.",
            "In the first year {s} found buyers for {sold}.",
        ],
        "questions": {
            "author": ["Who wrote {s}?", "Who is the author of {s}?", "By whom was {s} written?"],
            "published": [
                "When was {s} published?",
                "In what year did {s} appear?",
                "Which year was {s} published in?",
            ],
            "setting": ["Where is {s} set?", "In which town does {s} play?", "What is the setting of {s}?"],
            "hero": [
                "Who is the main character of {s}?",
                "Whose fortunes does {s} follow?",
                "Who is the hero of {s}?",
            ],
            "pages": ["How many pages does {s} have?", "How long is {s}?", "What is the number of pages of {s}?"],
            "topic": ["What is {s} about?", "What is the subject of {s}?", "What does {s} tell of?"],
            "publisher": ["Who published {s}?", "Which firm printed {s}?", "Who was the publisher of {s}?"],
            "sold": ["How many copies of {s} were sold?", "How many copies did {s} sell?", "How well did {s} sell?"],
        },
        "inverse": {
            "author": ["Which novel did {v} write?", "What was written by {v}?"],
            "hero": ["Which novel has {v} as main character?"],
            "topic": ["Which novel tells of {v}?"],
            "setting": ["Which novel is set in {v}?"],
        },
    },
}

OPENERS = [
    "According to old letters, ",
    "As every guide notes, ",
    "It is recorded that ",
    "By all accounts, ",
    "The archives show that ",
    "Most sources agree that ",
]
FILLERS = [
    "Little else has come down to us.",
    "The records for those years are not complete.",
    "Local papers wrote about it at length.",
    "Much of this was forgotten within a generation.",
    "A small exhibition now tells the story.",
    "Historians still argue over the details.",
    "Some of the papers were lost in the war.",
    "None of this was planned from the start.",
]

# ------------------------------------------------------------------------------------------------------------
# Values and names
# ------------------------------------------------------------------------------------------------------------


def pair(rng, side, first, second):
    """One word of each list; a fifth of all the combinations belongs to dev, the others to train."""
    while True:
        i, j = rng.randrange(len(first)), rng.randrange(len(second))
        if ((i + 2 * j) % 5 == 0) == (side == "dev"):
            return first[i], second[j]


NAME_PARTS = {
    "person": ("{} {}", WOMEN + MEN, SURNAMES),
    "town": ("{} {}", TOWN_FIRST, TOWN_SECOND),
    "ship": ("the {} {}", SHIP_FIRST, SHIP_SECOND),
    "firm": ("{} {}", FIRM_FIRST, FIRM_SECOND),
    "landmark": ("the {} {}", LANDMARK_FIRST, LANDMARK_SECOND),
    "journey": ("the {} {}", JOURNEY_FIRST, JOURNEY_SECOND),
    "feast": ("the {} {}", FEAST_FIRST, FEAST_SECOND),
    "book": ("The {} {}", BOOK_FIRST, BOOK_SECOND),
}
UNITS = {
    "metres": (12, 190, 1, "{} metres"),
    "sailors": (11, 99, 1, "{} sailors"),
    "people": (12, 980, 100, "{:,} people"),
    "workers": (20, 900, 10, "{:,} workers"),
    "money": (10, 990, 1000, "{:,} crowns"),
    "days": (3, 90, 1, "{} days"),
    "members": (11, 95, 1, "{} members"),
    "pages": (90, 890, 1, "{} pages"),
    "copies": (11, 700, 100, "{:,} copies"),
}


def draw_value(rng, side, kind):
    """A value of the given type, as a string."""
    if kind in NAME_PARTS:
        pattern, first, second = NAME_PARTS[kind]
        return pattern.format(*pair(rng, side, first, second))
    if kind in UNITS:
        low, high, step, pattern = UNITS[kind]
        return pattern.format(rng.randint(low, high) * step)
    if kind in POOLS:
        return rng.choice(POOLS[kind])
    year = rng.randint(1780, 1959)
    if kind == "year":
        return str(year)
    if kind == "date":
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {year}"
    others = {"river": f"the river {rng.choice(RIVERS)}", "month": rng.choice(MONTHS), "number": rng.choice(NUMBERS)}
    return others[kind]


class Taken:
    """The values a document already uses, so that no fact of one entity holds for another."""

    def __init__(self, rng, side):
        self.rng, self.side, self.words = rng, side, set()

    def fresh(self, kind):
        """A value not used before; None when a short list is used up."""
        for _ in range(30):
            value = draw_value(self.rng, self.side, kind)
            # A date must not bring back a year, nor a person a surname, that stands elsewhere in the text.
            key = value.split()[-1] if kind in ("year", "date", "person") else value
            if key not in self.words:
                self.words.add(key)
                return value
        return None


# ------------------------------------------------------------------------------------------------------------
# Documents and questions
# ------------------------------------------------------------------------------------------------------------

SLOT = re.compile(r"\{(\w+)\}")


def choose_sentences(rng, kind, wanted):
    """Templates of one kind, in random order, that give about `wanted` facts and none of them twice."""
    templates, chosen, told = list(KINDS[kind]["sentences"]), [], set()
    rng.shuffle(templates)
    for template in templates:
        facts = set(SLOT.findall(template)) - {"s"}
        if len(told) < wanted and not facts & told:
            chosen.append(template)
            told |= facts
    return chosen


def build_entity(rng, taken, kind, wanted):
    """An entity with a name and the sentences about it, each a template with the values for its slots."""
    name = taken.fresh(kind)
    sentences = []
    for template in choose_sentences(rng, kind, wanted):
        values = {slot: taken.fresh(KINDS[kind]["values"][slot]) for slot in SLOT.findall(template) if slot != "s"}
        if all(values.values()):
            sentences.append((template, values))
    told = {fact: values for _, values in sentences for fact in values}
    for early, late in (("birth_year", "death_year"), ("founded", "closed"), ("founded", "rail")):
        if early in told and late in told and told[early][early] > told[late][late]:
            told[early][early], told[late][late] = told[late][late], told[early][early]
    return {"kind": kind, "name": name, "sentences": sentences}


def short_name(rng, entity, template, first_mention, may_use_pronoun):
    """How a sentence names its entity: in full, by surname, or by a pronoun where that is clear."""
    name = entity["name"]
    if first_mention:
        return name
    if may_use_pronoun and template.startswith("{s} ") and rng.random() < 0.35:
        if entity["kind"] == "person":
            return "She" if name.split()[0] in WOMEN else "He"
        return KINDS[entity["kind"]]["generic"]
    if entity["kind"] == "person" and rng.random() < 0.3:
        return name.split()[-1]
    return name


def write_document(rng, entities):
    """The context made of the entities' sentences, and the character span of every fact and subject in it."""
    grouped = rng.random() < 0.5
    order = [(entity, sentence) for entity in entities for sentence in entity["sentences"]]
    if not grouped:
        rng.shuffle(order)
    text, spans, seen, previous = "", {}, set(), None
    for entity, (template, values) in order:
        if text:
            text += " "
            if rng.random() < 0.04:
                text += rng.choice(FILLERS) + " "
        key = entity["name"]
        start = len(text)
        subject = short_name(rng, entity, template, key not in seen, grouped and previous == key)
        if subject == key and template.startswith("{s} ") and rng.random() < 0.12:
            text += rng.choice(OPENERS)
        for piece in re.split(r"(\{\w+\})", template):
            slot = piece[1:-1] if SLOT.fullmatch(piece) else None
            word = subject if slot == "s" else values[slot] if slot else piece
            if slot == "s" and subject == key:
                for fact in values:
                    spans[key, fact, "subject"] = (len(text), len(text) + len(word))
            elif slot and slot != "s":
                spans[key, slot, "value"] = (len(text), len(text) + len(word))
            text += word
        text = text[:start] + text[start].upper() + text[start + 1 :]
        spans.setdefault((key, "about"), []).append((start, len(text)))
        for fact in values:
            spans[key, fact, "sentence"] = (start, len(text))
        seen.add(key)
        previous = key
    return text, spans


def near_miss(rng, taken, kind, names):
    """The name of an entity the document does not tell of, which nearly always shares a word with one it does."""
    for _ in range(200):
        name = draw_value(rng, taken.side, kind)
        alike = any(set(name.split()[-2:]) & set(other.split()[-2:]) for other in names)
        if name not in names and (alike or rng.random() < 0.02):
            return name
    return None


def rivals_of(kind, fact, entities, spans):
    """The spans of one fact, told of whichever entity of a kind."""
    names = {entity["name"] for entity in entities if entity["kind"] == kind}
    return [span for key, span in spans.items() if key[0] in names and key[1:] == (fact, "value")]


def answerable(rng, entities, text, spans):
    """A question the document answers: for a fact of an entity, or, about one time in nine, for the entity itself."""
    entity = rng.choice([entity for entity in entities if entity["sentences"]])
    _, values = rng.choice(entity["sentences"])
    fact = rng.choice(sorted(values))
    kind = KINDS[entity["kind"]]
    if fact in kind["inverse"] and (entity["name"], fact, "subject") in spans and rng.random() < 0.3:
        start, end = spans[entity["name"], fact, "subject"]
        alike = [span for key, span in spans.items() if key[-1] == "subject"]
        about = [spans[entity["name"], fact, "sentence"]]
        question = rng.choice(kind["inverse"][fact]).replace("{v}", values[fact])
    else:
        start, end = spans[entity["name"], fact, "value"]
        alike = rivals_of(entity["kind"], fact, entities, spans)
        about = spans[entity["name"], "about"]
        question = rng.choice(kind["questions"][fact]).replace("{s}", entity["name"])
    answers = [{"text": text[start:end], "answer_start": start}]
    return question, {"answers": answers, "is_impossible": False}, (alike, about)


def unanswerable(rng, taken, entities, text, spans):
    """A question the document leaves open although it holds a rival answer, which is given as plausible."""
    told = [(entity, fact) for entity in entities for _, values in entity["sentences"] for fact in sorted(values)]
    rng.shuffle(told)
    for rival, fact in told:
        kind = KINDS[rival["kind"]]
        silent = [
            e["name"]
            for e in entities
            if e["kind"] == rival["kind"] and not any(fact in values for _, values in e["sentences"])
        ]
        names = [entity["name"] for entity in entities if entity["kind"] == rival["kind"]]
        name = rng.choice(silent) if silent and rng.random() < 0.7 else near_miss(rng, taken, rival["kind"], names)
        if name:
            start, end = spans[rival["name"], fact, "value"]
            question = rng.choice(kind["questions"][fact]).replace("{s}", name)
            plausible = [{"text": text[start:end], "answer_start": start}]
            entry = {"answers": [], "is_impossible": True, "plausible_answers": plausible}
            return question, entry, (rivals_of(rival["kind"], fact, entities, spans), spans.get((name, "about"), []))
    raise ValueError("a document without a fact")


SIZES = {"tiny": ((2, 2), (1, 2)), "short": ((2, 3), (2, 3)), "usual": ((2, 4), (3, 5)), "long": ((8, 12), (4, 6))}


def make_document(rng, side, size, questions, open_share):
    """A document of a given size: title, context and questions, of which a share has no answer."""
    (fewest, most), facts = SIZES[size]
    count = rng.randint(fewest, most)
    main = rng.choice(sorted(KINDS))
    other = rng.choice(sorted(KINDS))
    taken = Taken(rng, side)
    kinds = [main] * count if size != "long" else [main] * (count // 2) + [other] * (count - count // 2)
    entities = [build_entity(rng, taken, kind, rng.randint(*facts)) for kind in kinds]
    text, spans = write_document(rng, entities)
    asked = {}
    for _ in range(20 * questions):
        if len(asked) == questions:
            break
        if rng.random() < open_share:
            question, entry, hints = unanswerable(rng, taken, entities, text, spans)
        else:
            question, entry, hints = answerable(rng, entities, text, spans)
        asked.setdefault(question[0].upper() + question[1:], (entry, hints))
    return {"title": KINDS[main]["title"], "context": text, "questions": asked}


def make_split(rng, side, count, version):
    """About `count` questions in the official nested layout; one document in about nine is a long one."""
    articles, total, number = {}, 0, 0
    while total < count:
        size = "long" if number % 9 == 4 else "usual"
        document = make_document(rng, side, size, 5, 0.4 if version == "v2.0" else 0.0)
        qas = []
        for question, (entry, _) in document["questions"].items():
            # An id must not depend on the run, only on the place of the question in the file.
            qa = {"id": f"{side}-v{version.strip('v')[0]}-{total + len(qas):05d}", "question": question, **entry}
            if version == "1.1":
                del qa["is_impossible"]
            qas.append(qa)
        paragraph = {"context": document["context"], "qas": qas}
        articles.setdefault(document["title"], []).append(paragraph)
        total += len(qas)
        number += 1
    return {"version": version, "data": [{"title": t, "paragraphs": p} for t, p in sorted(articles.items())]}


def write_data(folder):
    """The four data files; each has a generator of its own, so that changing one leaves the others alone."""
    files = {}
    for name, side, count, version in (
        ("train", "train", 800, "1.1"),
        ("dev", "dev", 400, "1.1"),
        ("train_v2", "train", 800, "v2.0"),
        ("dev_v2", "dev", 400, "v2.0"),
    ):
        files[name] = make_split(random.Random(f"{SEED}-{name}"), side, count, version)
        text = json.dumps(files[name], ensure_ascii=False, separators=(", ", ": "))
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return files


# ------------------------------------------------------------------------------------------------------------
# Tokenizer and windows
# ------------------------------------------------------------------------------------------------------------


def build_tokenizer(folders):
    """A lower-cased WordPiece tokenizer with the frequent words of train documents, saved into each folder.

    The library's own trainer breaks ties differently on each run, so the pieces are counted here.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import DistilBertTokenizerFast

    rng = random.Random(f"{SEED}-vocabulary")
    normalizer, splitter, seen = BertNormalizer(lowercase=True), BertPreTokenizer(), Counter()
    for _ in range(3000):
        document = make_document(rng, "train", "usual", 5, 0.2)
        for text in [document["context"], *document["questions"]]:
            seen.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    pieces = Counter(string.punctuation)
    for word, count in seen.items():
        # Single characters, first or within a word, are kept whatever happens: nothing must become unknown.
        pieces.update(dict.fromkeys(string.ascii_lowercase + string.digits + word, math.inf))
        pieces.update({"##" + char: math.inf for char in string.ascii_lowercase + string.digits + word[1:]})
        pieces[word] += count
        # Beginnings and endings count a little as well, so that what is left out falls into more than letters.
        for length in (2, 3):
            if len(word) > length + 2:
                pieces["##" + word[-length:]] += count // 8
                pieces[word[:-length]] += count // 8
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ranked = sorted(pieces, key=lambda piece: (-pieces[piece], piece))
    vocabulary = "\n".join(special + ranked[: VOCABULARY - len(special)]) + "\n"
    # Saved before its first use: afterwards the settings of that use would be saved with it.
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
        tokenizer = DistilBertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=512)
        tokenizer.save_pretrained(folder)
    return tokenizer


def windows_of(tokenizer, examples):
    """The windows of (question, context, answers, hints) examples: token ids, offsets, where the answer stands."""
    batch = tokenizer(
        [example[0] for example in examples],
        [example[1] for example in examples],
        max_length=MAX_LENGTH,
        stride=DOC_STRIDE,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for row, (ids, offsets) in enumerate(zip(batch["input_ids"], batch["offset_mapping"], strict=True)):
        example = batch["overflow_to_sample_mapping"][row]
        first = batch.sequence_ids(row).index(1)
        window = {"example": example, "ids": ids, "offsets": offsets, "first": first, "start": 0, "end": 0}
        for answer in examples[example][2][:1]:
            begin, stop = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            if offsets[first][0] <= begin and stop <= offsets[-2][1]:
                inside = [i for i in range(first, len(ids) - 1) if offsets[i][0] < stop and offsets[i][1] > begin]
                window["start"], window["end"] = inside[0], inside[-1]
        window["tags"] = []
        for spans in examples[example][3]:
            inside = bytearray(len(examples[example][1]))
            for begin, stop in spans:
                inside[begin:stop] = b"\1" * (stop - begin)
            window["tags"].append([inside[begin] for begin, _ in offsets[first:-1]])
        windows.append(window)
    return windows


def training_windows(rng, tokenizer, sizes, documents):
    """Windows of newly made documents, `sizes` naming how often each size comes."""
    examples = []
    for _ in range(documents):
        size = rng.choices(list(sizes), list(sizes.values()))[0]
        document = make_document(rng, "train", size, 4, 0.25)
        for question, (entry, hints) in document["questions"].items():
            examples.append((question, document["context"], entry["answers"], hints))
    kept = []
    for window in windows_of(tokenizer, examples):
        # Most windows of a long document hold no answer; all of them would drown the others.
        if window["start"] or not examples[window["example"]][2] or rng.random() < 0.3:
            kept.append(window)
    return kept


def batches_of(rng, windows, tokens):
    """Batches of windows of like length, each of about so many tokens with padding, in random order."""
    windows = sorted(windows, key=lambda window: len(window["ids"]))
    batches = [[]]
    for window in windows:
        if len(window["ids"]) * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(window)
    rng.shuffle(batches)
    return batches


def tensors_of(batch, rng=None):
    """Padded token ids, mask and position ids; with `rng`, every second context is moved to later positions."""
    import torch

    width = max(len(window["ids"]) for window in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    positions = torch.arange(width).repeat(len(batch), 1)
    for row, window in enumerate(batch):
        ids[row, : len(window["ids"])] = torch.tensor(window["ids"])
        mask[row, : len(window["ids"])] = 1
        if rng and rng.random() < 0.5:
            # Short texts alone would never train the later position embeddings.
            positions[row, window["first"] :] += rng.randrange(max(1, MAX_LENGTH - width))
    return ids, mask, positions


# ------------------------------------------------------------------------------------------------------------
# Scores
# ------------------------------------------------------------------------------------------------------------


def normalize(text):
    """Lower case, without punctuation, articles and extra blanks, as the SQuAD scores have it."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def score(gold, predicted):
    """(exact match, F1) of a predicted answer against the best of the gold ones; no gold one means no answer."""
    best = (0.0, 0.0)
    for answer in gold or [""]:
        want, got = normalize(answer), normalize(predicted)
        common = sum((Counter(want) & Counter(got)).values())
        f1 = 2 * common / (len(want) + len(got)) if common else float(want == got)
        best = max(best, (float(want == got), f1))
    return best


def predict(model, tokenizer, examples, may_be_empty):
    """The best answer text to each example over all of its windows."""
    import torch

    windows = windows_of(tokenizer, examples)
    found = [{"null": math.inf, "best": -math.inf, "text": ""} for _ in examples]
    model.eval()
    windows.sort(key=lambda window: len(window["ids"]))
    for begin in range(0, len(windows), 32):
        batch = windows[begin : begin + 32]
        ids, mask, _ = tensors_of(batch)
        with torch.no_grad():
            output = model(input_ids=ids, attention_mask=mask)
        logits = output.start_logits.tolist(), output.end_logits.tolist()
        for window, start, end in zip(batch, *logits, strict=True):
            result, last = found[window["example"]], len(window["ids"]) - 1
            result["null"] = min(result["null"], start[0] + end[0])
            places = range(window["first"], last)
            starts = sorted(places, key=lambda i: -start[i])[:N_BEST]
            ends = sorted(places, key=lambda i: -end[i])[:N_BEST]
            for i in starts:
                for j in ends:
                    if i <= j < i + MAX_ANSWER and start[i] + end[j] > result["best"]:
                        text = examples[window["example"]][1][window["offsets"][i][0] : window["offsets"][j][1]]
                        result.update(best=start[i] + end[j], text=text)
    return ["" if may_be_empty and r["null"] > r["best"] else r["text"] for r in found]


def evaluate(model, tokenizer, data):
    """EM and F1, in percent, of a model on a data file."""
    paragraphs = [paragraph for article in data["data"] for paragraph in article["paragraphs"]]
    examples = [(qa["question"], p["context"], qa["answers"], ()) for p in paragraphs for qa in p["qas"]]
    answers = predict(model, tokenizer, examples, data["version"] == "v2.0")
    golds = [[answer["text"] for answer in example[2]] for example in examples]
    scores = [score(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    return [100 * sum(column) / len(scores) for column in zip(*scores, strict=True)]


# ------------------------------------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------------------------------------


def new_model(shape):
    """An untrained model whose first two heads start out looking for like words, the others for near ones.

    That is what the task is built of; from plain random weights it would take far longer to be found.
    """
    import torch
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering

    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        dropout=0.0,
        attention_dropout=0.0,
        qa_dropout=0.0,
        initializer_range=0.05,
        **shape,
    )
    model = DistilBertForQuestionAnswering(config)
    # Words and positions start in parts of their own: the last quarter of the vector holds waves of many lengths.
    part = config.dim // 4
    with torch.no_grad():
        embeddings = model.distilbert.embeddings
        embeddings.word_embeddings.weight[:, -part:] = 0.0
        rate = torch.exp(torch.arange(part // 2) * (-math.log(300.0) / (part // 2 - 1)))
        angle = torch.arange(512).unsqueeze(1) * rate
        embeddings.position_embeddings.weight.zero_()
        waves = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
        embeddings.position_embeddings.weight[:, -part:] = 0.07 * waves
        for layer in model.distilbert.transformer.layer:
            query = torch.zeros(config.dim, config.dim)
            for head in range(config.n_heads):
                like = head < config.n_heads // 2
                width = config.dim - part if like else part
                rows = torch.linalg.qr(torch.randn(width, width))[0][: config.dim // config.n_heads]
                columns = slice(0, width) if like else slice(config.dim - part, config.dim)
                query[head * len(rows) : (head + 1) * len(rows), columns] = rows
            layer.attention.q_lin.weight.copy_(query)
            layer.attention.k_lin.weight.copy_(query)
    return model


def widen(model, shape):
    """A model of whole multiples of another one's widths, and of its first layers, that computes the same.

    Each channel becomes several, and what reads them takes the mean (Net2WiderNet; Chen, Goodfellow and Shlens 2016),
    but for a little noise, from which the copies learn apart.
    """
    import torch

    wide, narrow = new_model(shape), dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in wide.named_parameters():
            value = narrow[name]
            times = [new // old for new, old in zip(weight.shape, value.shape, strict=True)]
            for axis, count in enumerate(times):
                value = value.repeat_interleave(count, axis)
            if weight.dim() == 2 and "embeddings" not in name:
                value = value / times[1]
            if "q_lin" in name:
                # Attention divides its scores by the root of a head's width, which is larger now.
                value = value / math.sqrt(times[0])
            weight.copy_(value * (1 + PARTING * (2 * torch.rand(weight.shape) - 1)))
    return wide


def losses_of(model, tagger, batch, rng, teacher):
    """The loss of a batch: the answer's ends, the hints half-way, and, with a teacher, its view of the ends."""
    import torch
    from torch.nn import functional

    ids, mask, positions = tensors_of(batch, rng)
    tags, inside = torch.zeros(*ids.shape, 2), torch.zeros(*ids.shape, 1)
    for row, window in enumerate(batch):
        context = slice(window["first"], len(window["ids"]) - 1)
        tags[row, context] = torch.tensor(window["tags"], dtype=torch.float).T
        inside[row, context] = 1.0
    starts = torch.tensor([window["start"] for window in batch])
    ends = torch.tensor([window["end"] for window in batch])
    # The model takes no position ids; it cuts them from this buffer.
    model.distilbert.embeddings.position_ids = positions
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    loss = functional.cross_entropy(output.start_logits, starts) + functional.cross_entropy(output.end_logits, ends)
    found = functional.binary_cross_entropy_with_logits(tagger(output.hidden_states[-2]), tags, reduction="none")
    loss = loss + 4.0 * (found * inside).sum() / inside.sum() / 2
    if teacher:
        teacher.distilbert.embeddings.position_ids = positions
        with torch.no_grad():
            wanted = teacher(input_ids=ids, attention_mask=mask)
        for name in ("start_logits", "end_logits"):
            own = functional.log_softmax(output[name] / TEMPERATURE, dim=1)
            other = functional.softmax(wanted[name] / TEMPERATURE, dim=1)
            loss = loss + TEMPERATURE**2 * functional.kl_div(own, other, reduction="batchmean")
    return loss, (output.start_logits.argmax(1) == starts).float().mean().item()


def train(model, tokenizer, name, stages, rate, teacher=None, bf16=False):
    """Train on documents made as it goes along, in stages of (steps, share of each size of document)."""
    import torch

    rng = random.Random(f"{SEED}-{name}")
    # A layer of two hints per token (a rival of the answer? about the entity asked for?), thrown away at the end:
    # so many labels per text teach both halves of the task much sooner than the answer's ends alone.
    tagger = torch.nn.Linear(model.config.dim, 2)
    parameters = [*model.parameters(), *tagger.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    total = sum(steps for steps, _ in stages)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * step / total))
    )
    model.train()
    step, begun, recent = 0, time.time(), []
    limit = 0
    for steps, sizes in stages:
        limit += steps
        while step < limit:
            windows = training_windows(rng, tokenizer, sizes, 400)
            for batch in batches_of(rng, windows, BATCH_TOKENS)[: limit - step]:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss, right = losses_of(model, tagger, batch, rng, teacher)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                step += 1
                recent = [*recent[-99:], (loss.item(), right)]
                if step % 200 == 0:
                    mean_loss, mean_right = (sum(column) / len(recent) for column in zip(*recent, strict=True))
                    print(
                        f"{name} step {step}/{total}: loss {mean_loss:.3f}, start found {mean_right:.3f}, "
                        f"{time.time() - begun:.0f} s",
                        flush=True,
                    )
    for trained in filter(None, (model, teacher)):
        trained.distilbert.embeddings.position_ids = torch.arange(512).expand(1, -1)


def save(model, folder):
    """Save a checkpoint in half precision and leave the model in single precision, with the rounding it now has."""
    import torch

    model.to(torch.float16).save_pretrained(folder)
    model.to(torch.float32)
    (folder / "model.safetensors").chmod(0o644)


def report(model, tokenizer, name, files):
    """Print the scores of a model on both dev files."""
    for data in ("dev", "dev_v2"):
        exact, f1 = evaluate(model, tokenizer, files[data])
        print(f"{name} on {data}.json: EM {exact:.2f}, F1 {f1:.2f}", flush=True)


def make_checkpoints(folder, files):
    """Train the teacher from nothing, the student from three of its layers, and the wide model from two of these.

    Each is saved, and its scores printed.
    """
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    names = ("distilbert-qa-teacher", "distilbert-qa", "distilbert-qa-wide")
    teacher_folder, student_folder, wide_folder = folders = [folder / name for name in names]
    tokenizer = build_tokenizer(folders)
    teacher, student = new_model(TEACHER), new_model(STUDENT)

    train(teacher, tokenizer, "teacher", TEACHER_STAGES, 1e-3)
    save(teacher, teacher_folder)
    report(teacher, tokenizer, teacher_folder.name, files)

    student.distilbert.embeddings.load_state_dict(teacher.distilbert.embeddings.state_dict())
    student.qa_outputs.load_state_dict(teacher.qa_outputs.state_dict())
    for layer, kept in zip(student.distilbert.transformer.layer, KEPT_LAYERS, strict=True):
        layer.load_state_dict(teacher.distilbert.transformer.layer[kept].state_dict())
    train(student, tokenizer, "student", STUDENT_STAGES, 1e-3, teacher)
    save(student, student_folder)
    report(student, tokenizer, student_folder.name, files)

    # A seed of its own, so that it can be made of the other two alone.
    torch.manual_seed(SEED)
    wide = widen(student, WIDE)
    # In bf16 a step takes half of the time.
    train(wide, tokenizer, "wide", WIDE_STAGES, 1e-3, teacher, bf16=True)
    save(wide, wide_folder)
    report(wide, tokenizer, wide_folder.name, files)


def main():
    """Make the data files and, unless only these are asked for, the checkpoints."""
    parser = argparse.ArgumentParser(description="Rebuild the sample data sets and checkpoints.")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--data_only", action="store_true", help="make the data files alone")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    files = write_data(arguments.output_dir)
    if not arguments.data_only:
        make_checkpoints(arguments.output_dir, files)
    print(f"made in {time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
