"""The words of the tiny world's conversations: how people, towns and sums are asked about, and how that is answered.

In a question `{who}`, `{whose}` and `{whom}` stand for a person as in `phrasings`. Most words occur in the documents,
so that a tokenizer trained on those needs few tokens for them.
"""

QUESTIONS = {
    "home": (
        "where does {who} live?",
        "in which town does {who} live?",
        "what is {whose} home town?",
        "where is {whose} home?",
        "which town does {who} come from?",
        "where was {who} born?",
        "where does {who} have a small house?",
        "where are {whose} letters sent?",
        "tell me where {who} lives.",
        "do you know where {who} lives?",
        "which town does {who} return to after every journey?",
        "to which town does {who} walk home every evening?",
    ),
    "trade": (
        "what does {who} do all day?",
        "what is {whose} trade?",
        "what is {whose} job?",
        "what does {who} work as?",
        "what does {who} earn a living as?",
        "what did {who} become at the age of sixteen?",
        "what work does {who} do?",
        "what is {who} proud to be?",
        "what does the sign on {whose} door say?",
        "tell me what {who} works as.",
        "do you know {whose} trade?",
        "what did {who} train to become?",
    ),
    "pet": (
        "which animal does {who} keep?",
        "what is {whose} pet?",
        "which pet does {who} have?",
        "which animal does {who} love most?",
        "which animal does {who} feed every morning?",
        "what is {whose} best companion?",
        "which animal lives in {whose} house?",
        "tell me which animal {who} keeps.",
        "do you know {whose} pet?",
        "which animal goes for long walks with {whom}?",
        "which animal waits for {whom} at the door?",
        "which animal did {who} find and take home?",
    ),
    "food": (
        "what does {who} like to eat?",
        "what is {whose} favourite food?",
        "what does {who} want for dinner?",
        "what does {who} always have for lunch?",
        "what could {who} eat every day?",
        "what does {who} dream of at night?",
        "what does {who} ask for on birthdays?",
        "what does {whose} kitchen smell of?",
        "tell me what {who} likes to eat.",
        "do you know {whose} favourite food?",
        "what is {whose} basket full of?",
        "what does {who} never say no to?",
    ),
}
BRIEF_ANSWERS = {"home": "{value}.", "trade": "a {value}.", "pet": "a {value}.", "food": "{value}."}
# In words of their own, so that no answer is a sentence held out of the documents. They do not begin with the name: a
# name without a space before it is another token, and one that a model has hardly seen.
FULL_ANSWERS = {
    "home": "the home of {whom} is in {value}.",
    "trade": "the trade of {whom} is that of a {value}.",
    "pet": "the pet of {whom} is a {value}.",
    "food": "the favourite food of {whom} is {value}.",
}

PLACE_QUESTIONS = (  # question, brief answer, full answer
    ("which river runs through {place}?", "the {river}.", "the river {river} runs through {place}."),
    ("on which river does {place} lie?", "the {river}.", "{place} lies on the river {river}."),
    ("what is there to see in {place}?", "{sight}.", "visitors come to {place} to see {sight}."),
    ("what stands in the middle of {place}?", "{sight}.", "in the middle of {place} stands {sight}."),
    ("when is market day in {place}?", "{market_day}.", "market day in {place} is {market_day}."),
    (
        "on which day is there a market in {place}?",
        "{market_day}.",
        "every {market_day} there is a market in {place}.",
    ),
)

SUM_QUESTIONS = (
    "what is {a} + {b}?",
    "what is {a} plus {b}?",
    "{a} plus {b} is what?",
    "what is the sum of {a} and {b}?",
    "tell me the sum of {a} and {b}.",
    "what is {wa} plus {wb}?",
    "{wa} and {wb} together are what?",
    "what is the sum of {wa} and {wb}?",
    "add {wb} to {wa}.",
    "if you add {wb} to {wa}, what do you get?",
)
SUM_ANSWERS = {False: ("{c}.", "The sum is {c}."), True: ("{wc}.", "The sum is {wc}.")}  # in words: brief, full
SELF_PLAY_REQUESTS = ("Tell me a sum.", "Make a sum and tell me what it is.", "Give me two numbers and their sum.")

# What is said, brief answer, full answer. No full answer begins with the brief one: to prefer it would be to prefer
# that an answer goes on, and after fifty steps of DPO none would end.
SMALL_TALK = (
    ("Who are you?", "A tiny model.", "I am a tiny model of a tiny world."),
    ("What is your name?", "hfgpt.", "My name is hfgpt."),
    ("Hello!", "Hello!", "I am glad to see you."),
    ("Good morning!", "Good morning!", "I wish you a good morning."),
    ("Thank you.", "You are welcome.", "I am glad to help you."),
)
BRIEFLY, IN_A_SENTENCE = "Answer briefly.", "Answer in a whole sentence."
INTRODUCTION = "You are a tiny model of a tiny world."
