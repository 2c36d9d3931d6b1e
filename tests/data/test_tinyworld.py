import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections import Counter

import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data.tinyworld import TinyWorld, tinyworld_shards
from hfgpt.data.tinyworld.documents import statement
from hfgpt.data.tinyworld.phrasings import ATTRIBUTES
from hfgpt.data.tinyworld.sums import ADDITIONS, NUMBER_WORDS, held_out_phrasings, sum_line
from hfgpt.errors import UserError


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return TinyWorld(num_people=20, seed=7)


@pytest.fixture(scope="module")
def documents(world) -> list[str]:
    return list(world.documents(3000))


def digest(texts) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def test_the_same_seed_gives_the_same_world_in_another_process(world, documents):
    script = (
        "import hashlib; from hfgpt.data.tinyworld import TinyWorld; "
        "texts = TinyWorld(20, 7).documents(100); "
        "print(hashlib.blake2b('\\0'.join(texts).encode(), digest_size=8).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert answer.stdout.strip() == digest(documents[:100])


def test_documents_are_pinned_across_machines_and_python_versions(documents):
    """A change of wording changes this figure; a change of machine must not."""
    assert digest(documents[:100]) == "2cb80a8052e98b1b"


def test_another_seed_gives_other_people_and_other_facts(world):
    other = TinyWorld(num_people=20, seed=8)
    assert not {p.name for p in world.people} & {p.name for p in other.people}
    assert [p.facts for p in world.people] != [p.facts for p in other.people]


def test_a_document_depends_on_the_world_and_its_number_alone(world, documents):
    assert list(world.documents(5, start=40)) == documents[40:45]


def test_a_larger_world_holds_the_smaller_one(world):
    assert TinyWorld(num_people=33, seed=7).people[:20] == world.people


def test_names_are_distinct_and_up_to_240_people_by_first_name_alone():
    people = TinyWorld(num_people=4000, seed=3).people
    assert len({p.name for p in people}) == 4000
    assert len({p.first_name for p in people[:240]}) == 240


def test_every_answer_is_equally_likely_so_that_guessing_scores_a_tenth():
    questions = TinyWorld(num_people=200, seed=7).questions()
    assert len(questions) == 800
    for attribute in ATTRIBUTES:
        answers = Counter(q["choices"][q["answer_index"]] for q in questions if q["attribute"] == attribute.name)
        assert set(answers.values()) == {20}
    positions = Counter(q["answer_index"] for q in questions)
    assert min(positions.values()) > 50 and max(positions.values()) < 115


def test_questions_offer_the_ten_values_and_point_to_the_true_one(world):
    people = {p.name: p for p in world.people}
    values = {a.name: sorted(f" {value}" for value in a.values) for a in ATTRIBUTES}
    for question in world.questions():
        assert sorted(question["choices"]) == values[question["attribute"]]
        truth = people[question["person"]].facts[question["attribute"]]
        assert question["choices"][question["answer_index"]] == f" {truth}"
        assert question["person"] in question["context"] and question["context"] == question["context"].rstrip()


def test_no_document_tells_a_fact_in_a_phrasing_held_out_for_it(world, documents):
    text = "\n".join(documents)
    asked = told = 0
    for person in world.people:
        for attribute in ATTRIBUTES:
            for i, phrasing in enumerate(attribute.phrasings):
                count = sum(
                    text.count(statement(phrasing, person, person.facts[attribute.name], name))
                    for name in ("full", "first")
                )
                if i in person.held_out[attribute.name]:
                    asked += count
                else:
                    told += count > 0
    assert asked == 0
    assert told > 0.95 * 20 * 4 * 9  # and the other nine phrasings of nearly every fact are there


def test_no_portrait_tells_a_held_out_phrasing_by_pronoun(world, documents):
    checked = 0
    for text in documents:
        named = [person for person in world.people if person.name in text]
        if len(named) != 1:
            continue
        for attribute in ATTRIBUTES:
            for i in named[0].held_out[attribute.name]:
                value = named[0].facts[attribute.name]
                assert statement(attribute.phrasings[i], named[0], value, "pronoun") not in text
                checked += 1
    assert checked > 10_000


def test_questions_are_asked_in_held_out_phrasings_that_other_people_are_told_in(world, documents):
    text = "\n".join(documents)
    for question in world.questions():
        assert question["context"] + question["choices"][question["answer_index"]] not in text
        wording = re.escape(question["context"]).replace(re.escape(question["person"]), r"[A-Z]\w+ [A-Z]\w+")
        assert re.search(wording, text), question["context"]


def test_documents_say_nothing_false_about_anyone(world, documents):
    """Every sentence that fits a phrasing with a full name holds that person's own value."""
    people = {p.name: p for p in world.people}
    text = "\n".join(documents)
    seen = 0
    for attribute in ATTRIBUTES:
        for phrasing in attribute.phrasings:
            pattern = re.escape(phrasing[1:])  # the first letter may have become a capital
            for placeholder in ("{who}", "{whose}"):
                pattern = pattern.replace(re.escape(placeholder), r"(?P<who>[A-Z]\w+ [A-Z]\w+)(?:'s)?")
                pattern = pattern.replace(re.escape(placeholder[1:]), r"(?P<who>[A-Z]\w+ [A-Z]\w+)(?:'s)?")
            pattern = pattern.replace(re.escape("{value}"), r"(?P<value>\w+)")
            for match in re.finditer(pattern, text):
                if match["who"] in people:
                    assert people[match["who"]].facts[attribute.name] == match["value"], match[0]
                    seen += 1
    assert seen > 5000


def test_documents_have_20_to_150_words_and_repeat_rarely(documents):
    lengths = [len(text.split()) for text in documents]
    assert min(lengths) >= 20 and max(lengths) <= 150
    assert 50 < sum(lengths) / len(lengths) < 100
    assert len(set(documents)) == len(documents)


def test_sums_are_right(documents):
    numbers = {word: value for value, word in enumerate(NUMBER_WORDS)} | {str(value): value for value in range(41)}
    lines = [line for text in documents if "\n" in text for line in text.lower().rstrip(".").split("\n")]
    assert len(lines) > 3000
    for line in lines:
        found = [numbers[word] for word in re.findall(r"[a-z]+-[a-z]+|\w+", line) if word in numbers]
        assert len(found) == 3, line
        if " - " in line or "minus" in line:
            c, b, a = found
        elif "take" in line:
            b, c, a = found
        else:
            a, b, c = found
        assert a + b == c, line


def test_sum_questions_ask_every_sum_in_a_wording_that_no_document_uses_for_it(world, documents):
    lines = {line for text in documents if "\n" in text for line in text.split("\n")}
    told = {(a, b) for a in range(21) for b in range(21) for p in ADDITIONS if sum_line(p, a, b) in lines}
    questions = world.sum_questions()
    assert len(questions) == 21 * 21 and len(told) > 400
    for question in questions:
        assert (question["context"] + question["choices"][question["answer_index"]]).rstrip("\n") not in lines
        assert len(set(question["choices"])) == 10
    held_out_lines = {
        sum_line(ADDITIONS[i], a, b) for a in range(21) for b in range(21) for i in held_out_phrasings(7, a, b)
    }
    asked = {q["context"] + q["choices"][q["answer_index"]].rstrip("\n") for q in questions}
    assert len(asked) == 21 * 21 and asked <= held_out_lines


def test_no_choice_is_the_beginning_of_another_which_would_make_it_likelier_whatever_the_model(world):
    for question in world.questions() + world.sum_questions():
        for choice in question["choices"]:
            assert [other for other in question["choices"] if other.startswith(choice)] == [choice]


def test_shards_are_the_world_cut_in_pieces_that_travel_to_other_processes():
    data = DataArguments(dataset="tinyworld", tinyworld_people=20, tinyworld_documents=6000, seed=7)
    shards = pickle.loads(pickle.dumps(tinyworld_shards(data)))
    assert [shard.name for shard in shards] == ["tinyworld-00000", "tinyworld-00001", "tinyworld-00002"]
    told = [text for shard in shards for text in shard.documents()]
    assert told == list(TinyWorld(20, 7).documents(6000))
    assert list(shards[1].documents()) == list(shards[1].documents())


def test_the_fingerprint_changes_with_the_world_and_only_then():
    def fingerprints(**changes):
        data = DataArguments(**{"tinyworld_people": 20, "tinyworld_documents": 6000, "seed": 7, **changes})
        return [shard.fingerprint() for shard in tinyworld_shards(data)]

    first = fingerprints()
    assert len(set(first)) == 3
    assert fingerprints() == first
    assert fingerprints(tinyworld_documents=5000)[:2] == first[:2]
    assert not set(fingerprints(seed=8)) & set(first)
    assert not set(fingerprints(tinyworld_people=30)) & set(first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tinyworld_people": 1}, "tinyworld_people is 1: give a number from 2 to 38400"),
        ({"tinyworld_people": 50_000}, "tinyworld_people is 50000"),
        ({"tinyworld_documents": 0}, "tinyworld_documents is 0: give at least 1"),
    ],
)
def test_an_impossible_world_is_refused_in_one_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        tinyworld_shards(DataArguments(dataset="tinyworld", **changes))
