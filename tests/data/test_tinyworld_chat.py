import hashlib
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter

import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data.tinyworld import (
    TinyWorld,
    chat_shards,
    held_out_preference_rows,
    held_out_prompt_rows,
    preference_rows,
    prompt_rows,
    self_play_rows,
)
from hfgpt.data.tinyworld.chat_phrasings import (
    BRIEFLY,
    IN_A_SENTENCE,
    PLACE_QUESTIONS,
    QUESTIONS,
    SELF_PLAY_REQUESTS,
    SMALL_TALK,
    SUM_QUESTIONS,
)
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES, MARKET_DAYS, RIVERS, SIGHTS
from hfgpt.data.tinyworld.sums import NUMBER_WORDS
from hfgpt.errors import UserError
from hfgpt.training.rewards import correct_answer, correct_number, stated_number

SEED, NUM_PEOPLE = 7, 50
VALUES = [value for attribute in ATTRIBUTES for value in attribute.values] + [*RIVERS, *SIGHTS, *MARKET_DAYS]
BRIEF_ANSWERS = {
    f"{answer[0].upper()}{answer[1:]}."
    for value in [*VALUES, *NUMBER_WORDS, *map(str, range(41))]
    for answer in (value, f"a {value}", f"the {value}")
} | {brief for _, brief, _ in SMALL_TALK}
SMALL_TALK_ANSWERS = {answer for _, *answers in SMALL_TALK for answer in answers}


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return TinyWorld(num_people=NUM_PEOPLE, seed=SEED)


@pytest.fixture(scope="module")
def conversations(world) -> list[dict]:
    return list(world.conversations(12_000))


@pytest.fixture(scope="module")
def preferences(world) -> list[dict]:
    return list(world.preferences(3000))


def exchanges(conversations) -> list[tuple[str, str]]:
    """(question, answer) of every pair of turns."""
    result = []
    for conversation in conversations:
        turns = [m["content"] for m in conversation["messages"] if m["role"] != "system"]
        result += list(zip(turns[::2], turns[1::2], strict=True))
    return result


def asked_in(rows, key) -> set[str]:
    return {m["content"] for row in rows for m in row[key] if m["role"] == "user"}


def digest(rows) -> str:
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()


def test_rows_are_the_same_in_another_process_and_at_any_starting_point(world, conversations, preferences):
    script = (
        "import json; from hfgpt.data.tinyworld import TinyWorld as W; w = W(50, 7); "
        "rows = [list(f(40)) for f in (w.conversations, w.preferences, w.prompts, w.self_play_prompts)]; "
        "print(json.dumps(rows))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    there = json.loads(done.stdout)
    assert there[:2] == [conversations[:40], preferences[:40]]
    assert there[2] == list(world.prompts(40))
    assert list(world.conversations(5, start=40)) == conversations[40:45]
    assert list(world.preferences(5, start=40)) == preferences[40:45]
    assert list(world.prompts(3, start=10)) == there[2][10:13]


def test_rows_are_pinned_across_machines_and_python_versions(conversations, preferences):
    """A change of wording changes these figures; a change of machine must not."""
    assert digest(conversations[:100]) == "ac19d9ee1ff12ed7"
    assert digest(preferences[:100]) == "90778edc9f520872"


def test_conversations_are_canonical_and_alternate(conversations):
    for conversation in conversations:
        assert set(conversation) == {"messages", "tools"} and conversation["tools"] is None
        roles = [message["role"] for message in conversation["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2) and len(turns) in (2, 4, 6, 8, 10)
        assert all(message["content"].strip() == message["content"] != "" for message in conversation["messages"])


def test_a_fifth_of_the_people_are_in_no_conversation_pair_or_prompt_but_in_documents(
    world, conversations, preferences
):
    assert len(world.new_people) == NUM_PEOPLE / 5
    assert {p.name for p in world.new_people} | {p.name for p in world.conversation_people} == {
        p.name for p in world.people
    }
    chats = json.dumps([conversations, preferences, world.held_out_preferences(), list(world.prompts(500))])
    told = "\n".join(world.documents(1500))
    for person in world.new_people:
        assert person.first_name not in chats  # up to 240 people, first names are unique
        assert told.count(person.name) > 20
    assert all(person.name in chats for person in world.conversation_people)


def test_new_people_are_a_fifth_in_every_world_of_whole_fifties_and_the_same_in_a_larger_one(world):
    larger = TinyWorld(200, SEED)
    assert len(larger.new_people) == 40
    assert larger.new_people[:10] == world.new_people
    assert not TinyWorld(10, SEED).new_people
    assert len(TinyWorld(12, SEED).new_people) == 2


def test_each_use_asks_about_a_fact_in_wordings_of_its_own(world, conversations, preferences):
    """By brute force over every wording of every fact: what conversations, pairs and the evaluation ask."""
    chats = asked_in(conversations, "messages")
    pairs = {row["prompt"][-1]["content"] for row in preferences} - {said for said, *_ in SMALL_TALK}
    held_out = asked_in(world.held_out_preferences(), "prompt")
    evaluated = {row["question"] for row in world.chat_questions(world.people)}
    assert not chats & pairs and not chats & held_out and not pairs & held_out
    assert not evaluated & (chats | pairs)
    for person in world.conversation_people:
        for attribute in ATTRIBUTES:
            assert len(QUESTIONS[attribute.name]) >= 10
            asked = {fill(wording, person.name) for wording in QUESTIONS[attribute.name]}
            assert len(asked) == 12
            assert 5 <= len(asked & chats) <= 7 and len(asked & pairs) <= 2
            assert len(asked - chats - pairs) >= 3  # those that no stage uses
            assert len(asked & held_out) == 1


def fill(wording: str, name: str) -> str:
    text = wording.format(who=name, whose=f"{name}'s", whom=name)
    return text[0].upper() + text[1:]


def test_every_wording_is_used_for_some_people_so_that_only_the_pairing_is_new(world, conversations):
    chats = asked_in(conversations, "messages")
    for attribute in ATTRIBUTES:
        for wording in QUESTIONS[attribute.name]:
            assert sum(fill(wording, person.name) in chats for person in world.conversation_people) > 10


def test_sums_are_evaluated_in_wordings_that_neither_conversations_nor_prompts_use_for_them(world, conversations):
    chats = asked_in(conversations, "messages")
    prompts = asked_in(world.prompts(20_000), "prompt")
    questions = world.chat_sum_questions()
    evaluated = {row["question"] for row in questions}
    assert len(questions) == len(evaluated) == 121
    assert not evaluated & (chats | prompts)
    assert len(prompts) > 0.95 * 121 * 7  # every other wording of every sum is drawn
    assert any(word in question for question in evaluated for word in NUMBER_WORDS)


def test_every_answer_is_true(world, conversations):
    people = {person.name: person for person in world.people}
    places = world.places
    place_answers = {
        fill_place(texts[0], place): [fill_place(text, place) for text in texts[1:]]
        for place in places.values()
        for texts in PLACE_QUESTIONS
    }
    attribute_of = {wording: attribute for attribute, wordings in QUESTIONS.items() for wording in wordings}
    patterns = [(question_pattern(wording), attribute) for wording, attribute in attribute_of.items()]
    small_talk = {said: set(answers) for said, *answers in SMALL_TALK}
    seen = Counter()
    for conversation in conversations:
        person = None
        for question, answer in exchanges([conversation]):
            if question in place_answers:
                assert answer in place_answers[question]
                seen["place"] += 1
            elif question in small_talk:
                assert answer in small_talk[question]
                seen["small talk"] += 1
            elif question in SELF_PLAY_REQUESTS:
                a, b, c = numbers_in(answer)
                assert a + b == c
                seen["self-play"] += 1
            elif matched := [(m, attribute) for pattern, attribute in patterns if (m := pattern.fullmatch(question))]:
                ((match, attribute),) = matched
                if match["who"] in people:
                    person = people[match["who"]]
                    seen["fact"] += 1
                else:
                    assert match["who"].removesuffix("'s") in (
                        ("she", "her") if person.is_she else ("he", "him", "his")
                    )
                    seen["follow-up"] += 1
                values = next(a.values for a in ATTRIBUTES if a.name == attribute)
                stated = [value for value in values if re.search(rf"\b{value}\b", answer, re.IGNORECASE)]
                assert stated == [person.facts[attribute]]
            else:
                a, b = numbers_in(question)
                assert stated_number(answer) == a + b, (question, answer)
                seen["sum"] += 1
    assert min(seen[kind] for kind in ("place", "small talk", "self-play", "fact", "follow-up", "sum")) > 200


def fill_place(text: str, place) -> str:
    text = text.format(place=place.name, river=place.river, sight=place.sight, market_day=place.market_day)
    return text[0].upper() + text[1:]


def question_pattern(wording: str) -> re.Pattern:
    pattern = re.escape(wording[0].upper() + wording[1:])
    for placeholder in ("{who}", "{whose}", "{whom}"):
        pattern = pattern.replace(re.escape(placeholder), r"(?P<who>[A-Z]\w+ [A-Z]\w+?|she|he|her|him|his)(?:'s)?")
    return re.compile(pattern)


def numbers_in(text: str) -> list[int]:
    words = {word: number for number, word in enumerate(NUMBER_WORDS)}
    found = re.findall(r"\d+|[a-z]+-[a-z]+|[a-z]+", text.lower())
    return [int(token) if token.isdigit() else words[token] for token in found if token.isdigit() or token in words]


def test_a_fifth_of_the_conversations_end_with_something_else(conversations):
    """Sums that something else follows keep a model from answering all that follows a sum by another sum."""
    small_talk = {said for said, *_ in SMALL_TALK}
    after_sums = Counter()
    turning = 0
    for conversation in conversations:
        asked = [m["content"] for m in conversation["messages"] if m["role"] == "user"]
        kinds = ["talk" if a in small_talk else "sum" if len(numbers_in(a)) == 2 else "other" for a in asked]
        turning += len(set(kinds)) > 1
        after_sums.update(after for before, after in itertools.pairwise(kinds) if before == "sum")
    assert 0.12 < turning / len(conversations) < 0.2  # the rest turn from one person to another, or not visibly
    assert after_sums["talk"] > 80 and after_sums["other"] > 80 and after_sums["sum"] > 1000


def test_a_third_of_the_answers_are_whole_sentences_and_no_question_tells_which(world, conversations):
    styles: dict[str, Counter] = {}
    for conversation in conversations:
        if conversation["messages"][0]["role"] == "system":
            continue
        for question, answer in exchanges([conversation]):
            if question in SELF_PLAY_REQUESTS:
                continue
            styles.setdefault(question, Counter())["full" if is_full(answer) else "brief"] += 1
    total = sum(styles.values(), Counter())
    assert abs(total["full"] / total.total() - 0.33) < 0.02
    often = [count for count in styles.values() if count.total() >= 30]
    assert len(often) > 30
    assert all(0.1 < count["full"] / count.total() < 0.6 for count in often)


def is_full(answer: str) -> bool:
    """A brief answer is a value, with its article at most."""
    return answer not in BRIEF_ANSWERS


def test_a_system_turn_that_asks_for_a_style_gets_it_all_through(conversations):
    asked = Counter()
    for conversation in conversations:
        first, *turns = conversation["messages"]
        answers = [m["content"] for m in turns if m["role"] == "assistant"]
        has_styles = answers[0] not in SMALL_TALK_ANSWERS and turns[0]["content"] not in SELF_PLAY_REQUESTS
        if first["content"] in (BRIEFLY, IN_A_SENTENCE) and has_styles:
            assert {is_full(answer) for answer in answers} == {first["content"] == IN_A_SENTENCE}
            asked[first["content"]] += 1
    assert min(asked.values()) > 200 and len(asked) == 2


def test_no_value_is_a_likelier_answer_than_another(world):
    larger = TinyWorld(200, SEED)
    for people in (larger.conversation_people, larger.new_people):
        for attribute in ATTRIBUTES:
            counts = Counter(person.facts[attribute.name] for person in people)
            assert set(counts.values()) == {len(people) // 10}
    questions = larger.chat_questions(larger.conversation_people)
    assert Counter(q["answer"] for q in questions).most_common(1)[0][1] <= 10  # of 160, among 40 values


def test_no_answer_tells_a_sentence_that_is_held_out_of_the_documents(world, conversations, preferences):
    """Neither conversations nor pairs give away the multiple-choice questions that the base model is measured by."""
    answers = {answer.rstrip(".") for _, answer in exchanges(conversations)}
    answers |= {row[side][0]["content"].rstrip(".") for row in preferences for side in ("chosen", "rejected")}
    told = "\n".join(answers)
    for question in world.questions():
        assert question["context"] + question["choices"][question["answer_index"]] not in told
    for question in world.sum_questions():
        sentence = question["context"] + question["choices"][question["answer_index"]]
        assert sentence.rstrip("\n.") not in answers


def test_pairs_prefer_the_whole_true_sentence(world, preferences):
    people = {person.name: person for person in world.people}
    small_talk = {said: (full, brief) for said, brief, full in SMALL_TALK}
    kinds = Counter()
    for row in preferences + world.held_out_preferences():
        assert set(row) == {"prompt", "chosen", "rejected", "tools"}
        *before, question = row["prompt"]
        ((chosen,), (rejected,)) = row["chosen"], row["rejected"]
        assert (question["role"], chosen["role"], rejected["role"]) == ("user", "assistant", "assistant")
        assert_well_answered(before)
        kinds["later"] += bool(before)
        if question["content"] in small_talk:
            full, brief = small_talk[question["content"]]
            assert chosen["content"] == full
            off_topic = rejected["content"] != brief
            assert not off_topic or (is_full(rejected["content"]) and rejected["content"] not in SMALL_TALK_ANSWERS)
            kinds["off topic" if off_topic else "brief small talk"] += 1
            continue
        (person,) = [person for name, person in people.items() if name in question["content"]]
        assert person.name in chosen["content"]
        assert any(re.search(rf"\b{value}\b", chosen["content"]) for value in person.facts.values())
        told_truth = any(
            re.search(rf"\b{value}\b", rejected["content"], re.IGNORECASE) for value in person.facts.values()
        )
        if person.name in rejected["content"]:
            assert rejected["content"] != chosen["content"] and not told_truth
            kinds["false"] += 1
        else:
            assert told_truth and len(rejected["content"].split()) <= 2
            kinds["brief"] += 1
    about_facts = kinds["false"] + kinds["brief"]
    assert 0.2 < kinds["false"] / about_facts < 0.3
    small = kinds["off topic"] + kinds["brief small talk"]
    assert 0.26 < small / len(preferences) < 0.34
    assert 0.4 < kinds["off topic"] / small < 0.6
    assert 0.45 < kinds["later"] / len(preferences) < 0.55


def test_no_preferred_answer_begins_with_the_rejected_one(preferences):
    """Such a pair would teach that an answer does not end where it might."""
    for row in preferences:
        assert not row["chosen"][0]["content"].startswith(row["rejected"][0]["content"])


def assert_well_answered(messages: list[dict]) -> None:
    """Whole exchanges, each answered in a whole sentence."""
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
    for asked, answered in zip(messages[::2], messages[1::2], strict=True):
        assert is_full(answered["content"])
        operands = numbers_in(asked["content"])
        if len(operands) == 2:
            assert sum(operands) == stated_number(answered["content"])


def test_held_out_pairs_cover_every_fact_of_the_people_of_the_conversations_once(world):
    rows = world.held_out_preferences()
    assert len(rows) == 40 * 4 == len(asked_in(rows, "prompt"))


def test_prompts_come_with_the_right_answer(world):
    rows = list(world.prompts(2000))
    people = {person.name: person for person in world.conversation_people}
    sums = [row for row in rows if stated_number(row["answer"]) is not None]
    for row in sums:
        a, b = numbers_in(row["prompt"][0]["content"])
        assert row["answer"] == str(a + b)
    assert 0.4 < sum(any(c.isdigit() for c in row["prompt"][0]["content"]) for row in sums) / len(sums) < 0.6
    small_talk = {said: full for said, _, full in SMALL_TALK}
    talk = [row for row in rows if row["prompt"][-1]["content"] in small_talk]
    assert 0.06 < len(talk) / 2000 < 0.1
    assert all(row["answer"] == small_talk[row["prompt"][-1]["content"]] for row in talk)
    facts = [row for row in rows if row not in sums and row not in talk]
    assert 0.17 < len(facts) / 2000 < 0.23
    later = [row for row in rows if len(row["prompt"]) > 1]
    assert all(row in talk for row in later)
    assert 0.4 < len(later) / len(talk) < 0.6
    for row in later:
        assert len(row["prompt"]) == 3
        assert_well_answered(row["prompt"][:-1])
    for row in facts:
        (person,) = [person for name, person in people.items() if name in row["prompt"][0]["content"]]
        assert person.name in row["answer"] and stated_number(row["answer"]) is None
        assert any(value in row["answer"] for value in person.facts.values())
        assert correct_answer([row["answer"], row["answer"] + " No."], [row["answer"]] * 2) == [1.0, 0.0]
    assert asked_in(world.self_play_prompts(100), "prompt") == set(SELF_PLAY_REQUESTS)


def test_questions_of_the_evaluation_list_every_answer_in_both_styles(world):
    for row in world.chat_questions(world.people):
        assert len(row["values"]) == len(row["brief"]) == len(row["full"]) == 10
        index = row["values"].index(row["answer"])
        assert row["answer"].lower() in row["brief"][index].lower() and row["answer"] in row["full"][index]
    people = {p.name: p for p in world.people}
    for row in world.chat_questions(world.people):
        (name,) = [name for name in people if name in row["question"]]
        assert row["answer"] in people[name].facts.values() and name in row["full"][0]
    for row in world.chat_sum_questions():
        assert sum(numbers_in(row["question"])) == int(row["answer"])
        for style in ("brief", "full"):
            assert len(set(row[style])) == 41
            assert correct_number(row[style], [row["answer"]] * 41) == [
                float(n == int(row["answer"])) for n in range(41)
            ]


def test_conversations_hold_exactly_the_answers_that_the_evaluation_accepts(world, conversations):
    """Asked in other wordings, the people of the conversations are answered in the same words."""
    told = {answer for _, answer in exchanges(conversations)}
    for row in world.chat_questions(world.conversation_people):
        index = row["values"].index(row["answer"])
        assert row["brief"][index] in told and row["full"][index] in told
    for row in world.chat_sum_questions():
        assert row["brief"][int(row["answer"])] in told and row["full"][int(row["answer"])] in told


def test_wordings_name_their_numbers_and_people():
    assert all(("{a}" in text and "{b}" in text) or ("{wa}" in text and "{wb}" in text) for text in SUM_QUESTIONS)
    assert all(
        sum(text.count(p) for p in ("{who}", "{whose}", "{whom}")) == 1 for q in QUESTIONS.values() for text in q
    )


def test_shards_are_the_conversations_cut_in_pieces_that_travel_to_other_processes(world):
    data = DataArguments(dataset="tinyworld", tinyworld_people=NUM_PEOPLE, seed=SEED, tinyworld_conversations=6000)
    shards = pickle.loads(pickle.dumps(chat_shards(data)))
    assert [shard.name for shard in shards] == ["tinyworld-chat-00000", "tinyworld-chat-00001"]
    told = [row for shard in shards for row in shard.conversations()]
    assert told == list(world.conversations(6000))
    first = [shard.fingerprint() for shard in shards]
    assert first == [shard.fingerprint() for shard in chat_shards(data)] and len(set(first)) == 2
    data.seed = 8
    assert not set(first) & {shard.fingerprint() for shard in chat_shards(data)}


def test_rows_of_section_data_are_those_of_its_world(world):
    data = DataArguments(
        tinyworld_people=NUM_PEOPLE, seed=SEED, tinyworld_preferences=30, tinyworld_prompts=20, dataset="tinyworld"
    )
    assert list(preference_rows(data)) == list(world.preferences(30))
    assert held_out_preference_rows(data) == world.held_out_preferences()
    assert list(prompt_rows(data)) == list(world.prompts(20))
    assert list(self_play_rows(data)) == list(world.self_play_prompts(20))
    held_out = held_out_prompt_rows(data)
    assert len(held_out) == 121 and set(held_out[0]) == {"prompt", "answer"}


@pytest.mark.parametrize("key", ["tinyworld_conversations", "tinyworld_preferences", "tinyworld_prompts"])
def test_an_impossible_number_is_refused_in_one_sentence(key):
    data = DataArguments(dataset="tinyworld", **{key: 0})
    read = {"tinyworld_conversations": chat_shards, "tinyworld_preferences": preference_rows}.get(key, prompt_rows)
    with pytest.raises(UserError, match=rf"data\.{key} is 0: give at least 1\."):
        read(data)
