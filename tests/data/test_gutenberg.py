"""Gutenberg books: none of the licence, all of the book, in every marker style and encoding."""

import re
from collections import Counter

import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data.gutenberg import clean_book, decode_book, strip_boilerplate
from hfgpt.data.local_files import local_shards
from hfgpt.errors import UserError

# Each file: what the clean text must begin with, what it must end with, and its length in characters.
BOOKS = {
    "american-adventures_18304.txt": (
        "[Illustration: Charleston is the last stronghold of a unified American\nupper class;",
        '    Page 734: changed "coconut" to "cocoanut" in image\n    caption (palm fronds of the cocoanut grove,)',
        970_714,
    ),
    "devils-dictionary_972.txt": (
        "THE DEVIL'S DICTIONARY\n\nby Ambrose Bierce\n\n\n\n\nAUTHOR'S PREFACE\n\n_The Devil's Dictionary_ was begun",
        "that the domestic cow sheds its horn every two years.",
        365_122,
    ),
    "devils-dictionary_dvldc10_old-etext.txt": (
        "THE DEVIL'S DICTIONARY\nby\nAMBROSE BIERCE\n\n\n\nAUTHOR'S PREFACE\n\n_The Devil's Dictionary_ was begun",
        "that the domestic cow sheds its horn every two years.",
        365_789,
    ),
    "dickens-and-music_16595-8_latin1.txt": (
        "                         [Illustration]\n\n            TOM PINCH AT THE ORGAN.",
        'Pages 27, 33, 166, 177\n          "Cadby" corrected to "Caddy"',
        222_772,
    ),
    "frankenstein_pg84_modern_cp1252.txt": (
        "Frankenstein;\n\nor, the Modern Prometheus\n\nby Mary Wollstonecraft (Godwin) Shelley\n\n\n CONTENTS",
        "He was soon borne away by the waves and\nlost in darkness and distance.",
        419_335,
    ),
    "gov-bob-taylors-tales_20171.txt": (
        "[Illustration]\n\n\n\n\n\n\nGov. Bob. Taylor's Tales.",
        "    Nashville, Tenn.\n\n    [Mention this paper.]",
        170_848,
    ),
    "great-gatsby_pg64317_modern_cp1252.txt": (
        "                           The Great Gatsby\n                                  by\n",
        "So we beat on, boats against the current, borne back ceaselessly into\nthe past.",
        270_716,
    ),
    "jack-sheppard_16215-8_latin1.txt": (
        "Transcribers Note: Obvious typesetter errors from the original",
        "[Illustration: JACK SHEPPARD]\n\n\nTHE END.",
        895_009,
    ),
    "katrine_14263.txt": (
        '[Illustration: "I HAVE WAITED ALL THESE YEARS"]\n\n\n\n\nKATRINE\n\nA Novel',
        '"It is cold for you here," he said. "Shall we go in,\nMrs. Francis Ravenel?"\n\n\nTHE END',
        346_859,
    ),
    "news-from-nowhere_3261.txt": (
        "NEWS FROM NOWHERE\nOR\nAN EPOCH OF REST\nBEING SOME CHAPTERS FROM\nA UTOPIAN ROMANCE\n\n\nBY\nWILLIAM",
        "{3}  Cirencester and Burford he must have meant.",
        422_829,
    ),
    "news-from-nowhere_nwsnw10_old-etext.txt": (
        "NEWS FROM NOWHERE\nor AN EPOCH OF REST\nbeing some chapters from\nA UTOPIAN ROMANCE\n\nby William Morris",
        "{3}  Cirencester and Burford he must have meant.",
        422_505,
    ),
    "pride-and-prejudice_1342-0.txt": (
        "PRIDE AND PREJUDICE\n\nBy Jane Austen\n\n\n\nChapter 1\n\n\nIt is a truth universally acknowledged,",
        "by bringing\nher into Derbyshire, had been the means of uniting them.",
        684_780,
    ),
    "pride-and-prejudice_pandp10_old-etext.txt": (
        "Pride and Prejudice\n\nby Jane Austen\n\n\n\n\nChapter 1\n\n\n\n\nIt is a truth universally acknowledged,",
        "by bringing her into Derbyshire, had been the\nmeans of uniting them.",
        687_501,
    ),
    "pride-and-prejudice_pandp12_old-etext.txt": (
        "Pride and Prejudice\n\nby Jane Austen\n\n\n\n\nChapter 1\n\n\nIt is a truth universally acknowledged,",
        "by bringing her into Derbyshire, had been the\nmeans of uniting them.",
        688_146,
    ),
}
LICENCE = re.compile(
    r"gutenberg|small print|pgdp|distributed proofread|@[a-z]|\betext #|\bebook #|michael s\. hart"
    r"|produced by aloysius|plain vanilla|501\(c\)|public domain etext|character set encoding",
    re.IGNORECASE,
)


@pytest.mark.parametrize("name", BOOKS)
def test_none_of_the_licence_and_all_of_the_book(shared_data, name):
    first, last, length = BOOKS[name]
    book = clean_book((shared_data / "gutenberg" / name).read_bytes())
    assert book.startswith(first) and book.endswith(last)
    assert not LICENCE.search(book)
    assert len(book) == length and "\r" not in book and "\ufffd" not in book


def test_every_line_that_is_cut_is_before_the_book_or_behind_it(shared_data):
    for name in BOOKS:
        raw = (shared_data / "gutenberg" / name).read_bytes()
        text, book = decode_book(raw), clean_book(raw)
        if name != "devils-dictionary_dvldc10_old-etext.txt":  # its credits stand behind the title
            assert book in text


def test_editions_of_one_book_agree_on_its_first_and_last_sentences(shared_data):
    def words(name):
        book = clean_book((shared_data / "gutenberg" / name).read_bytes())
        return re.sub(r"[^a-z]+", " ", book[book.index("Chapter 1\n") :].lower()).split()

    modern, first, corrected = (
        words(f"pride-and-prejudice_{edition}.txt") for edition in ("1342-0", "pandp10_old-etext", "pandp12_old-etext")
    )
    assert modern[:60] == corrected[:60] and modern[:15] == first[:15]
    assert modern[-60:] == corrected[-60:] == first[-60:]
    assert max(map(len, (modern, first, corrected))) < 1.005 * min(map(len, (modern, first, corrected)))


def test_accents_and_quotes_come_out_right(shared_data):
    raw = (shared_data / "gutenberg" / "great-gatsby_pg64317_modern_cp1252.txt").read_bytes()
    gatsby = clean_book(raw)
    assert "that’s no\nmatter—tomorrow we will run faster" in gatsby
    assert gatsby.count("“") == raw[raw.index(b"*** START") : raw.index(b"*** END")].count(b"\x93") == 1457
    sheppard = clean_book((shared_data / "gutenberg" / "jack-sheppard_16215-8_latin1.txt").read_bytes())
    assert sum(not character.isascii() for character in sheppard) == 8


BODY = "CHAPTER I\n\nIt was a dark night; the café’s door — “Naïve,” said she — stood open.\n\n\nTHE END"
FILLER = "\n\n".join(f"Paragraph {n}. " + "The rain fell in torrents. " * 8 for n in range(60))
LONG_BODY = f"CHAPTER I\n\n{FILLER}\n\nTHE END"
START = "*** START OF THE PROJECT GUTENBERG EBOOK A NIGHT ***"
END = "*** END OF THE PROJECT GUTENBERG EBOOK A NIGHT ***"
HEADER = "The Project Gutenberg eBook of A Night, by A. Writer\n\nTitle: A Night\n\nAuthor: A. Writer\n\n"
SMALL_PRINT = (
    '***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this "Small Print!" here?\n\n'
    "This PROJECT GUTENBERG-tm etext is a work.\n\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*"
)
LICENCE_TEXT = "Updated editions will replace the previous one.\n\n" + "Project Gutenberg-tm terms of use.\n" * 300


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (START, END),
        ("***START OF THE PROJECT GUTENBERG EBOOK A NIGHT***", "***END OF THE PROJECT GUTENBERG EBOOK A NIGHT***"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK A VERY\nLONG TITLE: OR,\nTHE NIGHT ***", f"        {END}"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK A NIGHT", "*** END OF THIS PROJECT GUTENBERG EBOOK A\nNIGHT ***"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK, A NIGHT ***", f"{END}\n\n{SMALL_PRINT}"),
        (START, f"End of the Project Gutenberg EBook of A Night,\nby A. Writer\n\n{END}"),
        (START, "End of Project Gutenberg's A Night, by A. Writer"),
        (START, "THE END OF THE PROJECT GUTENBERG ETEXT OF A NIGHT"),
        (START, "*** START: FULL LICENSE ***\n\nTHE FULL PROJECT GUTENBERG LICENSE"),
        (START, SMALL_PRINT),
        (START, "*****This file should be named night10.txt or night10.zip*****"),
        (SMALL_PRINT, "End of The Project Gutenberg Etext of A Night, by A. Writer"),
        (SMALL_PRINT.replace("*END*THE", "*END THE"), "End of this Project Gutenberg Etext of A Night"),
        (f"{SMALL_PRINT}\n\n{START}", END),
        (f"{START}\n\n{SMALL_PRINT}", END),
        (f"{START}\n\n\nProduced by Anne Example, Ben\nSample and the Online Distributed Proofreading Team", END),
        (f"{START}\n\nE-text prepared by Anne Example\n\n\nNote: Project Gutenberg also has an HTML version.", END),
        (f"{START}\n\nTranscribed from the 1908 edition by Anne Example, email a@example.org", END),
        (f"{START}\n\nThis etext was produced by Anne Example <a@example.org>", END),
        (f"{START}\n\nThis eBook was produced by Anne Example.", f"Produced by Anne Example (www.pgdp.net)\n\n{END}"),
        ("", END),
    ],
    ids=range(21),
)
@pytest.mark.parametrize("body", [BODY, LONG_BODY], ids=["short", "long"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
def test_every_marker_style_leaves_the_book_and_nothing_else(before, after, body, newline):
    text = f"{HEADER}{before}\n\n\n\n{body}\n\n\n\n{after}\n\n{LICENCE_TEXT}".replace("\n", newline)
    assert clean_book(text.encode("utf-8-sig")) == body


def test_several_books_in_one_file_all_stay():
    one = f"{HEADER}{START}\n\n{LONG_BODY}\n\n{END}\n\n{LICENCE_TEXT}"
    old = f"{HEADER}{SMALL_PRINT}\n\n{LONG_BODY}\n\nEnd of Project Gutenberg's A Night\n\n"
    assert len(LONG_BODY) > 10_000
    assert strip_boilerplate(one * 4) == "\n\n\n".join([LONG_BODY] * 4)
    assert strip_boilerplate(old * 4) == "\n\n\n".join([LONG_BODY] * 4)


def test_the_end_of_a_first_volume_does_not_end_the_book():
    second = f"VOLUME II\n\n{FILLER}\n\n{FILLER}\n\n{FILLER}\n\nFINIS"
    end = "End of Project Gutenberg's A Night, Volume I, by A. Writer"
    text = f"{HEADER}{START}\n\n{BODY}\n\n{end}\n\n{second}\n\n{END}\n\n{LICENCE_TEXT}"
    assert strip_boilerplate(text) == f"{BODY}\n\n\n{second}"


def test_credits_after_the_title_go_and_the_title_stays():
    text = (
        f"{START}\n\nA NIGHT\n\nby A. Writer\n\nEntered by Anne Example\na@example.org\n\nPREFACE\n\n{BODY}\n\n{END}"
    )
    assert strip_boilerplate(text) == f"A NIGHT\n\nby A. Writer\n\nPREFACE\n\n{BODY}"


def test_what_only_looks_like_boilerplate_stays():
    book = (
        f"PREFACE\n\nPrepared by long study, the author begins.\n\n{LONG_BODY}\n\n* * * * *\n\n"
        "Produced by the same hand: three sonnets.\n\nThe end of the project came.\n\n*** END OF PART ONE ***\n\nFINIS"
    )
    assert strip_boilerplate(f"{START}\n\n{book}\n\n{END}") == book
    other = f"Produced by the sun, the grapes ripen.\n\n{BODY}"
    assert strip_boilerplate(f"\n \n{other}\n\n") == other


@pytest.mark.parametrize("declared", ["", "ISO-8859-1", "Windows-1252", "ASCII", "UTF-8"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig", "utf-16"])
def test_a_wrong_or_missing_declaration_does_not_spoil_the_text(encoding, declared):
    line = f"Character set encoding: {declared}\n\n" if declared else ""
    text = f"{line}{START}\n\n{BODY}\n\n{END}"
    assert clean_book(text.encode(encoding)) == BODY


@pytest.mark.parametrize(
    ("declared", "encoding", "word"),
    [
        ("ISO Latin-1", "latin-1", "déjà vu, naïve, Göttingen"),
        ("ISO-8859-2", "iso8859-2", "žluťoučký kůň"),
        ("Windows Code Page 1251", "cp1251", "Все счастливые семьи"),
        ("KOI8-R", "koi8-r", "Все счастливые семьи"),
        ("Big5", "big5", "道可道非常道"),
        ("", "mac_roman", "déjà vu, naïve façade, crème brûlée, “quoted”, it’s"),
        ("", "cp850", "déjà vu, naïve façade, crème brûlée, Göttingen"),
        ("", "big5", "道可道，非常道。名可名，非常名。無名天地之始；有名萬物之母。" * 20),
    ],
)
def test_other_encodings_are_read_by_declaration_or_by_their_look(declared, encoding, word):
    text = f"Character set encoding: {declared}\r\n\r\n{word}\r\n" if declared else word
    assert decode_book(text.encode(encoding)) == text.replace("\r\n", "\n")


def test_mojibake_is_repaired_and_nothing_else_is_changed():
    mojibake = "It’s the “café” — naïve".encode().decode("cp1252", errors="replace").replace("\ufffd", "\x9d")
    assert decode_book(mojibake.encode()) == "It’s the “café” — naïve"
    untouched = "ﬁne ‘quotes’ ① Ａ e\u0301 &amp; <b> \x0c page\u2028 ½ l’été"
    assert decode_book(untouched.encode()) == untouched


def test_binary_data_is_refused():
    with pytest.raises(UserError, match="NUL bytes"):
        decode_book(bytes(range(256)) * 10)


def test_a_folder_of_gutenberg_files_gives_one_document_a_book(tmp_path, shared_data):
    (shard,) = local_shards(DataArguments(data_path=str(shared_data / "gutenberg"), format="gutenberg"))
    counts = Counter()
    books = list(shard.documents(counts))
    assert [len(book) for book in books] == [BOOKS[name][2] for name in sorted(BOOKS)] and not counts
    (tmp_path / "plain.txt").write_text("No header here.\n")
    (tmp_path / "licence.txt").write_text(f"{HEADER}{START}\n\n\n{END}\n")
    (shard,) = local_shards(DataArguments(data_path=str(tmp_path), format="gutenberg"))
    assert list(shard.documents(counts)) == ["No header here."]
    assert counts == Counter(books_without_markers=1, blank_documents=1)
    (tmp_path / "junk.txt").write_bytes(b"\0\1\2")
    (shard,) = local_shards(DataArguments(data_path=str(tmp_path), format="gutenberg"))
    with pytest.raises(UserError, match=r"junk\.txt: it holds NUL bytes"):
        list(shard.documents())
