import pickle
import random

import pytest

from hfgpt.evals.ngrams import NGRAM_WORDS, NgramIndex, words_of

SPEECH = (
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, "
    "and dedicated to the proposition that all men are created equal."
)


def found(questions: list[str], texts: list[str]) -> list[int]:
    overlaps, _ = NgramIndex(words_of(question) for question in questions).find(texts)
    return [overlap.question for overlap in overlaps]


def in_a_row(words: list[str], text: list[str]) -> bool:
    """By hand: an n-gram of the question, or all of a short one, stands in the text."""
    length = min(len(words), NGRAM_WORDS)
    grams = {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
    return bool(words) and any(tuple(text[i : i + length]) in grams for i in range(len(text) - length + 1))


@pytest.mark.parametrize(("shared", "is_found"), [(12, False), (13, True), (14, True)])
def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not(shared, is_found):
    words = SPEECH.split()
    question = " ".join(words[5:25])
    text = " ".join(["Once", *words[8 : 8 + shared], "upon", "a", "time"])
    assert (found([question], [text]) == [0]) == is_found


def test_case_punctuation_and_line_breaks_do_not_count():
    assert found([SPEECH], ["He said:\n" + SPEECH.upper().replace(",", " --").replace(" ", "\n\n")]) == [0]
    assert words_of("The cat's 3.5 “naïve” plans_B!") == ["the", "cat", "s", "3", "5", "naïve", "plans", "b"]


def test_a_short_question_is_found_whole_only():
    assert found(["What is 7 plus 8?"], ["You ask what is 7 plus 8? It is 15."]) == [0]
    assert found(["What is 7 plus 8?"], ["What is 7 plus 9?", "is 7 plus 8"]) == []


def test_a_sum_is_not_found_among_other_numbers_in_that_order():
    assert found(["1 + 10 = 11"], ["11 - 1 = 10. 11 - 2 = 9"]) == []
    assert found(["1 + 10 = 11"], ["So 1+10=11, as 11 - 1 = 10."]) == [0]


def test_nothing_reaches_from_one_text_into_the_next():
    words = SPEECH.split()
    assert found([SPEECH], [" ".join(words[:7]), " ".join(words[7:15])]) == []
    assert found(["What is 7 plus 8?"], ["what is", "7 plus 8"]) == []


def test_every_question_that_shares_the_words_is_found_and_one_without_words_never():
    questions = [SPEECH, "?!", f"Complete this: {SPEECH}", "", "Who are you?"]
    assert found(questions, ["", SPEECH, "?!"]) == [0, 2]
    assert found([], [SPEECH]) == [] and found(questions, []) == []


def test_it_shows_the_words_around_what_was_found_and_counts_the_words_read():
    index = NgramIndex([words_of("lazy dogs sleep")])
    (overlap,), words = index.find(["A fox.", "One two three four five six seven. Lazy dogs sleep: eight, nine!"])
    assert overlap.text == "two three four five six seven lazy dogs sleep eight nine"
    assert words == 2 + 12


def test_it_agrees_with_a_search_by_hand_on_texts_full_of_near_misses():
    draw = random.Random(0)

    def sentence(longest: int) -> list[str]:
        return draw.choices(["a", "b", "c"], weights=[8, 1, 1], k=draw.randrange(longest))

    questions = [sentence(20) for _ in range(300)]
    texts = [sentence(60) for _ in range(40)]
    overlaps, words = NgramIndex(questions).find([" ".join(text) for text in texts])
    by_hand = [number for number, asked in enumerate(questions) if any(in_a_row(asked, text) for text in texts)]
    assert [overlap.question for overlap in overlaps] == by_hand
    assert words == sum(map(len, texts))
    assert 50 < len(by_hand) < 250


def test_it_can_be_sent_to_another_process():
    index = pickle.loads(pickle.dumps(NgramIndex([words_of(SPEECH)])))
    assert [overlap.question for overlap in index.find([SPEECH])[0]] == [0]
