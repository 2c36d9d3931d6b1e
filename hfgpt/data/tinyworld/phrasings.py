"""The words of the tiny world: names, what can be true of people and places, and the ways in which it can be told.

In a phrasing `{who}`, `{whose}` and `{whom}` stand for a person (full name, first name or pronoun) and `{value}` for
what is told. No value begins with a vowel, so that the article before it gives nothing away.
"""

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAME_STARTS = _words("Bar Bel Cal Dor Fen Gar Hal Jor Kel Lor Mar Nel Per Ros Sel Tam Ver Wil Yar Zan")
FIRST_NAME_ENDS = _words("a an ia ric ina us ette mond ora ek lyn o")  # she, he, she, he ...
LAST_NAME_STARTS = _words("Ash Brook Copper Dale Elm Fair Grey Hazel Iron Lark Moss North Oak Pine Reed Stone")
LAST_NAME_ENDS = _words("bury field gate hill land man more ridge well wood")


@dataclass(frozen=True)
class Attribute:
    """One thing that is true of every person, one of ten values.

    `phrasings` name the person before the value, so that each can be cut into a question; `turned` name the value
    first and are told only.
    """

    name: str
    values: tuple[str, ...]
    phrasings: tuple[str, ...]
    turned: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        name="home",
        values=_words(
            "Millford Bridgeton Greenhaven Foxhollow Winterpool Sandwick Thornbury Lakeside Redcliff Harwell"
        ),
        phrasings=(
            "{who} lives in {value}.",
            "{whose} home is in {value}.",
            "{who} has a small house in {value}.",
            "{who} comes from {value}.",
            "the town where {who} lives is {value}.",
            "every evening {who} walks home to {value}.",
            "{who} was born in {value} and never moved away.",
            "ask where {who} lives and people will say {value}.",
            "{whose} letters are sent to {value}.",
            "after every journey {who} returns to {value}.",
            '"Where does {who} live?" "In {value}."',
            "{who} has seen many towns but stays in {value}.",
        ),
        turned=(
            "{value} is where {who} lives.",
            "in {value} you can visit {whom} at home.",
        ),
    ),
    Attribute(
        name="trade",
        values=_words("baker miller potter weaver carpenter blacksmith gardener teacher doctor shepherd"),
        phrasings=(
            "{who} works as a {value}.",
            "{who} is a {value}.",
            "{whose} trade is that of a {value}.",
            "{who} earns a living as a {value}.",
            "{who} trained for years to become a {value}.",
            "by day {who} is busy as a {value}.",
            "{who} became a {value} at the age of sixteen.",
            "{whose} job is to be the town {value}.",
            "as everyone knows, {who} is a good {value}.",
            "the sign on {whose} door says {value}.",
            '"What does {who} do all day?" "The work of a {value}."',
            "{who} is proud to be a {value}.",
        ),
        turned=(
            "a {value} is what {who} wanted to be, and it came true.",
            "the work of a {value} pays {whose} rent.",
        ),
    ),
    Attribute(
        name="pet",
        values=_words("cat dog parrot rabbit goat pony turtle goose ferret hedgehog"),
        phrasings=(
            "{who} has a pet {value}.",
            "{who} keeps a {value}.",
            "{whose} best companion is a {value}.",
            "{who} goes for long walks with a {value}.",
            "{who} shares the house with a {value}.",
            "every morning {who} feeds a {value}.",
            "{whose} pet is a {value}.",
            "the animal that {who} loves most is a {value}.",
            "{who} once found a {value} and took it home.",
            "{whose} children play with a {value}.",
            '"Which animal does {who} keep?" "A {value}."',
            "{who} has drawn many pictures of a {value}.",
        ),
        turned=(
            "a {value} waits for {whom} at the door.",
            "a {value} sleeps beside {whose} bed.",
        ),
    ),
    Attribute(
        name="food",
        values=_words("plums cheese soup pancakes honey noodles mushrooms dumplings berries walnuts"),
        phrasings=(
            "{who} likes to eat {value}.",
            "{whose} favourite food is {value}.",
            "for lunch {who} always has {value}.",
            "{who} could eat {value} every day.",
            "when {who} is hungry there must be {value}.",
            "{who} spends the last coin on {value}.",
            "at night {who} dreams of {value}.",
            "on birthdays {who} asks for {value}.",
            "{whose} kitchen smells of {value}.",
            "{who} never says no to {value}.",
            '"What does {who} want for dinner?" "Some {value}, please."',
            "{whose} basket is full of {value}.",
        ),
        turned=(
            "with {value} on the table {who} is happy.",
            "the smell of {value} always brings {whom} to the kitchen.",
        ),
    ),
)

RIVERS = _words("Alder Bell Crane Drift Ember Flint Gull Heron Ivy Juniper")
SIGHTS = (
    "an old clock tower",
    "a bridge with nine arches",
    "a windmill with red sails",
    "a ruined castle",
    "a garden of roses",
    "a library with a glass roof",
    "a tall lighthouse",
    "a square with a fountain",
    "a market hall",
    "a great oak tree",
)
MARKET_DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday")
PLACE_PHRASINGS = (
    "{place} lies on the river {river}.",
    "the river {river} runs through {place}.",
    "visitors come to {place} to see {sight}.",
    "in the middle of {place} stands {sight}.",
    "market day in {place} is {market_day}.",
    "every {market_day} there is a market in {place}.",
)

TIMES = (
    "one morning",
    "one rainy evening",
    "last spring",
    "on a warm day in summer",
    "late in autumn",
    "in the first snow of winter",
    "a long time ago",
    "before sunrise",
)
MEETINGS = (
    "{time} {first} met {second} by the river.",
    "{time} {first} and {second} sat under a tree and talked.",
    "{time} {first} waited for the coach together with {second}.",
    "{time} {first} knocked on the door, and {second} opened it.",
    "{time} {first} lost a glove and {second} found it.",
)
PARTINGS = (
    "they talked until it was dark.",
    "in the end they promised to write.",
    "then each of them went home.",
    "they have been friends ever since.",
    "after an hour it was time to go.",
)
GATHERINGS = (
    "{time} the people of the valley came together and told one another the news.",
    "{time} a traveller asked about everyone in the valley.",
    "{time} the postman made a list of everyone he knew.",
    "here is what the neighbours say.",
    "at the fair one hears a lot about people.",
)
INTRODUCTIONS = (
    "this is the story of {name}.",
    "let me tell you about {name}.",
    "have you heard of {name}?",
    "many people know {name}.",
    "{time} I met {name}.",
)
