"""Project Gutenberg books made clean text: bytes decoded, mojibake repaired, header, licence and production credits
cut off. The book itself, front matter and transcribers' notes included, is left as it is."""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hfgpt.data.unpacking import BYTE_ORDER_MARKS, byte_blocks
from hfgpt.errors import UserError

# Text after an end marker that is longer than this is more book (a further volume), for the longest licence that
# Project Gutenberg has printed has 19,000 characters.
LICENCE_CHARS = 30_000
FRONT_MATTER_CHARS = 6_000  # credits are looked for this far into the book

_START = re.compile(
    # The marker may be wrapped over lines; it ends at its closing asterisks, or else at a blank line.
    r"^[ \t]*\*{2,}[ \t]*START OF (?:THE|THIS) (?:COPYRIGHTED )?PROJECT GUTENBERG\b"
    r"(?:(?!\n[ \t]*\n).)*?(?:\*{2,}[^\n]*(?:\n|\Z)|(?=\n[ \t]*\n)|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_SMALL_PRINT_START = re.compile(r"^.*START\W*THE SMALL PRINT.*$", re.IGNORECASE | re.MULTILINE)
_SMALL_PRINT_END = re.compile(
    r"^.*\bEND\W*THE SMALL PRINT.*$|^\W*SMALL PRINT!.*\*END\*.*$", re.IGNORECASE | re.MULTILINE
)
_END = re.compile(
    r"^[ \t]*\*{2,}[ \t]*END OF (?:THE|THIS) (?:COPYRIGHTED )?PROJECT GUTENBERG"
    r"|^[ \t*]*(?:This is )?(?:the )?End of (?:(?:the|this) )?Project Gutenberg"
    r"|^[ \t*]*(?:Ende (?:dieses|des) Projekt|Fin (?:de|du) Project) Gutenberg",
    re.IGNORECASE | re.MULTILINE,
)
_TRAILER = re.compile(  # ends a book near the end of a file, where the end marker is missing
    r"^[ \t]*\*{2,}[ \t]*START: FULL LICENSE"
    r"|^[ \t]*\**[ \t]*START\W*THE SMALL PRINT"
    r"|^[ \t]*\**[ \t]*This file should be named \S+ or \S+"
    r"|^[ \t]*Updated editions will replace the previous one",
    re.IGNORECASE | re.MULTILINE,
)
_COPYRIGHT_BLOCK = re.compile(r"<<THIS ELECTRONIC VERSION OF THE COMPLETE WORKS.{0,1500}?>>\s*", re.DOTALL)
_GUTENBERG = re.compile(r"Project\s+Gutenberg|gutenberg\.(?:org|net)|pglaf\.org", re.IGNORECASE)
_CREDIT = re.compile(
    r"\W*(?:(?:this|the) )?(?:"
    r"produced by|prepared by|transcribed (?:by|from)|scanned (?:by|and)|proof(?:ed|read)(?: by| and)|typed (?:by|in)|"
    r"entered by|digiti[sz]ed by|html (?:version|file) (?:by|prepared)|credits:|the internet wiretap|"
    r"(?:updated|revised|corrected|additional (?:proofing|proofreading|editing)) by|images of the original|"
    r"(?:project gutenberg )?(?:e-?text|e-?book|electronic text|digital edition) (?:edition )?(?:was |is )?(?:first )?"
    r"(?:prepared|produced|transcribed|scanned|typed|created|converted|made|entered|provided|by)\b"
    r")",
    re.IGNORECASE,
)
_CREDIT_SIGN = re.compile(
    r"[\w.+-]+@[\w-]+\.\w|https?://|www\.|pgdp|proofread|gutenberg|\be-?texts?\b|\be-?books?\b", re.IGNORECASE
)
_UNMARKED_HEADER = re.compile(  # the first lines of a header without any marker
    r"\W*(?:copyright laws are changing|please take a look at the important|welcome to the world of free plain|"
    r"e-?(?:texts|books) readable by both|these e(?:texts|books) |information on contacting|"
    r"this e(?:text|book) is for the use of|(?:title|author|editor|translator|illustrator|language|edition|"
    r"character set encoding|(?:release|posting) date|last updated|most recently updated):|"
    r"[^\n]*\[e(?:text|book) #\d+\])",
    re.IGNORECASE,
)
_PARAGRAPH = re.compile(r"^[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*", re.MULTILINE)
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_DECLARED = re.compile(rb"^[ \t]*Character set encoding:[ \t]*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)
# A character beyond ASCII that a Western text has at this place. Read by a wrong code page, many fall through: accents
# stand at the end of a sentence or before a capital, quotation marks become control characters.
_WESTERN = re.compile(r"(?<![.,!?;:])[ßà-öø-ÿœ](?![A-Z])|(?<![a-z])[ÆÉÇŒ]|[£§°½¼¾«»‘’“”„–—…•·´\xa0]")


def clean_book(raw: bytes) -> str:
    """The text of a book from the bytes of its Project Gutenberg file. Raises UserError for bytes that are no text."""
    return strip_boilerplate(decode_book(raw))


def book_documents(path: Path, counts: Counter) -> Iterator[str]:
    """The one document of a book file; `counts["books_without_markers"]` where no header or licence was found."""
    try:
        text = decode_book(b"".join(byte_blocks(path)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    book = strip_boilerplate(text)
    if book == _BLANK_LINES.sub("", text).rstrip():
        counts["books_without_markers"] += 1
    if book:
        yield book
    else:
        counts["blank_documents"] += 1


def decode_book(raw: bytes) -> str:
    """Text with `\\n` newlines: by byte order mark, as UTF-8, by the encoding that the header declares, or by what the
    bytes look like; then mojibake (UTF-8 once read as something else) is repaired. Raises UserError."""
    mark, encoding = next(((mark, name) for mark, name in BYTE_ORDER_MARKS if raw.startswith(mark)), (b"", ""))
    if not mark:
        if b"\0" in raw:
            raise UserError("it holds NUL bytes, so it is binary data and not a book; leave it out.")
        encoding = _encoding(raw)
    try:
        text = raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"the book is not valid {encoding} (byte {error.start}: {error.reason}).") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else _repair(text)


def _encoding(raw: bytes) -> str:
    # Text in another encoding is hardly ever valid UTF-8, while UTF-8 files with an older header are common.
    if _decodes(raw, "utf-8"):
        return "utf-8"
    if declared := _DECLARED.search(raw[:20_000]):
        name = _codec_name(declared.group(1).decode("latin-1"))
        if name == "iso8859-1":  # the bytes 0x80 to 0x9f are quotes and dashes in cp1252 and nothing in Latin-1
            name = "cp1252" if _decodes(raw, "cp1252") else "latin-1"
        if name not in ("", "ascii", "utf-8") and _decodes(raw, name):
            return name
    high = raw.translate(None, delete=bytes(range(128)))
    if len(high) < 0.2 * len(raw):
        candidates = [name for name in ("cp1252", "mac_roman", "cp850", "latin-1") if _decodes(raw, name)]
        return max(candidates, key=lambda name: len(_WESTERN.findall(raw.decode(name))))
    import charset_normalizer

    best = charset_normalizer.from_bytes(raw).best()
    if best is None:
        raise UserError("its encoding cannot be told; convert the file to UTF-8.")
    return best.encoding


def _codec_name(declared: str) -> str:
    """Python's name of a declared encoding, such as `ISO Latin-1` or `ISO-646-US (US-ASCII)`; empty if unknown."""
    for name in (declared, *re.findall(r"\(([^)]*)\)", declared), re.sub(r"(?i)iso[ -](?=latin)", "", declared)):
        name = re.sub(
            r"(?i)^(?:windows code ?page|code ?page|cp|windows)[ -]*(?=\d)", "cp", name.split("(")[0].strip()
        )
        try:
            return codecs.lookup(name.replace(" ", "-")).name
        except (LookupError, ValueError):
            continue
    return ""


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _repair(text: str) -> str:
    """Repairs mojibake and changes nothing else: no quotes straightened, nothing normalised."""
    import ftfy

    return ftfy.fix_text(
        text,
        ftfy.TextFixerConfig(
            unescape_html=False,
            remove_terminal_escapes=False,
            replace_lossy_sequences=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            uncurl_quotes=False,
            fix_line_breaks=False,
            fix_surrogates=False,
            remove_control_chars=False,
            normalization=None,
            explain=False,
        ),
    )


def strip_boilerplate(text: str) -> str:
    """The book without Project Gutenberg's header, licence and production credits. Text without any of these comes
    back as it is, but for blank lines around it."""
    books = []
    while text:
        start = _header_end(text)
        if not start and not _GUTENBERG.search(text[:FRONT_MATTER_CHARS]) and not _END.search(text):
            books.append(_BLANK_LINES.sub("", text).rstrip())
            break
        ends = (_END.search(text, start), _TRAILER.search(text, max(start, len(text) - LICENCE_CHARS)))
        end = min((marker.start() for marker in ends if marker), default=len(text))
        books.append(_without_credits(_COPYRIGHT_BLOCK.sub("", text[start:end]), has_header=not start))
        text = text[end:]
        while _END.match(text):
            text = _BLANK_LINES.sub("", _PARAGRAPH.sub("", text, count=1))
        # Does more book follow? Another file joined to this one, or a volume behind the line that ends the one before.
        if len(text) <= LICENCE_CHARS and not _header_end(text):
            break
    return "\n\n\n".join(book for book in books if book)


def _header_end(text: str) -> int:
    """Where the book begins: behind the START marker or the small print, whichever is later; 0 without either."""
    marker = _START.search(text)
    start = marker.end() if marker else 0
    small_print = _SMALL_PRINT_END.search(text, start)
    if small_print is None or _END.search(text, start, small_print.start()):
        return start
    # Small print may also stand at the end: then there is a book before it, or none behind it.
    opening = _SMALL_PRINT_START.search(text, start, small_print.start())
    before = text[start : opening.start()] if marker and opening else ""
    behind = text[small_print.end() :]
    ends = [end.start() for end in (_END.search(behind), _TRAILER.search(behind)) if end]
    behind = behind[: min(ends, default=len(behind))]
    return small_print.end() if behind.strip() and not _without_credits(before, has_header=False) else start


def _without_credits(book: str, has_header: bool) -> str:
    """Cuts off what the project's volunteers wrote around the book; `has_header`: the header had no marker."""

    def foreign(paragraph: str) -> bool:
        return len(paragraph) < 2_000 and bool(
            _CREDIT.match(paragraph)
            or _GUTENBERG.search(paragraph)
            or (has_header and _UNMARKED_HEADER.match(paragraph))
        )

    paragraphs = list(_PARAGRAPH.finditer(book))
    while paragraphs and foreign(paragraphs[0].group()):
        del paragraphs[0]
    while paragraphs and foreign(paragraphs[-1].group()):
        del paragraphs[-1]
    if not paragraphs:
        return ""
    start, end = paragraphs[0].start(), paragraphs[-1].end()
    kept = []
    for paragraph in paragraphs:
        if paragraph.start() > paragraphs[0].start() + FRONT_MATTER_CHARS:
            break
        if _CREDIT.match(paragraph.group()) and _CREDIT_SIGN.search(paragraph.group()):
            kept.append(book[start : paragraph.start()].rstrip())
            start = paragraph.end()
    return "".join([*kept, book[start:end]]).rstrip()
