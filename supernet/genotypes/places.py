"""The places of genotypes in a text, with the names that they have there: in a file of Python, JSON
or Markdown, in a log, or alone.

A place is found by signs that no other text has. Six numbers, NASLib's form for NAS-Bench-201, have
none: they need a name or a line of their own.
"""

import re
import string
from typing import NamedTuple

from base.checks import InputError
from supernet.genotypes.json_form import end_of_json

_MOST_PLACES = 5_000  # genotypes in a text
_LONGEST_ALONE = 4096  # characters of a NAS-Bench-201 string or of numbers
_BEFORE = 300  # characters of a line before a genotype that are looked at
_NEAR = 80  # of them those that say whether numbers are meant

# Every repetition is bounded, so that no text takes long, and every choice begins with a sign of its
# own, by which the search skips the rest of a log.
_S = r"\s{0,40}"
_EDGE = r"\s{0,20}\w{1,60}\s{0,20}~\s{0,20}[0-9]{1,4}\s{0,20}\|"
_STRING = rf"\|(?:{_EDGE}){{1,20}}(?:\s{{0,20}}\+\s{{0,20}}\|(?:{_EDGE}){{1,20}}){{0,9}}"
_CONFIGURATION = "NetworkSelectorDatasetInfo:"
_KEYS = rf"(?:normal|reduce)/(?:op|input)_[0-9]|(?:cell/)?[0-3]_[0-3]['\"]|{_CONFIGURATION}|(?:normal|reduce)_concat['\"]"
_JSON = rf"\{{{_S}\"(?:format\"{_S}:{_S}[0-9]|cells\"{_S}:{_S}\{{)"
# numpy 2 and torch may print a number as np.int64(1) or tensor(1, device='cuda:0').
_WRAPPED = r"(?:(?:np\.|numpy\.)u?int[0-9]{1,2}|(?:torch\.)?tensor)\("
_END = r"(?:, ?\w{1,10}=['\w:.]{1,20}){0,2}\)"
_SIX, _PAIR = (
    rf"(?=[\s0-9nt]){_S}{number}(?:{_S},{_S}{number}){{{more}}}{_S}(?:,{_S})?[)\]]"
    for number, more in ((rf"(?:[0-4]|{_WRAPPED}[0-4]{_END})", 5), (rf"(?:[0-9]|{_WRAPPED}[0-9]{_END})", 1))
)
_CELL = rf"{_S}[(\[]{_S}[(\[]{_PAIR}(?:{_S},{_S}[(\[]{_PAIR}){{7}}{_S}(?:,{_S})?[)\]]"
_CELLS = rf"{_CELL}{_S},{_CELL}{_S}(?:,{_S})?[)\]]"
_PLACE = re.compile(
    rf"Genotype\s{{0,20}}\(|Structure\s{{0,20}}\([0-9]{{1,4}} nodes with {_STRING}\)|{_STRING}"
    rf"|'(?:{_KEYS})|\"(?:{_KEYS})|{_CONFIGURATION}[^\s,]{{1,80}}, Value:"
    rf"|{_JSON}|\((?:{_SIX}|{_CELLS})|\[(?:{_SIX}|{_CELLS})",
    re.ASCII,
)
_OWN_JSON = re.compile(_JSON)

_WHOLE_STRING = re.compile(r"\|[\w\s|~+.\-]*")
_NEXT_STRING = re.compile(r"\|[.,;]?[^\S\r\n]*[\r\n]\s*\|")  # one that is broken over lines has no | at both sides
_NUMBERS = re.compile(r"[\[(][\s\d,()\[\]]*[\])]")
_CALLS = re.compile(r"\b(?:(?:np|numpy|torch)\.)?(?:u?int[0-9]+|tensor|array)\b")

_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,40}[mK]")
"""A colour of a terminal, or the end of a line that grep clears behind one."""
_QUOTES = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}  # of word processors, for those of Python

_MARK = r"(?:[#>$*-]\s*)?"  # of a comment, a prompt or a list
_ASSIGNMENT = re.compile(rf"{_MARK}([A-Za-z_][\w.]*)\s*(?::\s*\w+\s*)?=")
_TITLE = re.compile(rf"{_MARK}([A-Za-z_][\w.-]*)\s*:")
_KEY = re.compile(r"['\"]([^'\"\n]{1,60})['\"]\s*:")
_LOGGED = re.compile(
    r"[0-9]:[0-9][0-9]|(?<!--)\b(?:TRACE|DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL"
    r"|epoch|gent?otype|geno|arch|architecture)\b",
    re.IGNORECASE,
)
_SAID_TO_BE_ONE = re.compile(r"(?<![a-z])(?:gent?o|arch)\w{0,40}['\"]?\s{0,20}(?:[:=]|is\b)[\s:=]{0,20}\Z")
_WRAPPER = re.compile(r"(?:(?:np|numpy|torch)\.)?(?:array|tensor|list|tuple)\(\Z")
_CLOSED = re.compile(
    rf"(?:{_END})?(?:[ \t'\"`)\],;.}}]{{0,20}}(?:[\r\n#]|\Z)|['\"]?\s{{0,20}},\s{{0,20}}['\"]\w)"  # the latter as in JSON
)
_LINE_END = re.compile(r"[\r\n]")
_BLANK_LINE = re.compile(r"\n\s*\n")
_WORD = string.ascii_letters + string.digits + "_"


class Place(NamedTuple):
    """The place of a genotype in a text: the characters where it begins and where the search goes
    on, its line from 1, the first sign of what tells it, the name that it is given there, whether
    that is but a title before a colon, and whether it is on a line of a log."""

    start: int
    end: int
    line: int
    sign: str
    name: str = ""
    titled: bool = False
    logged: bool = False


def plain_text(text: str) -> str:
    """Returns a text without the colours of a terminal and the quotes of word processors.

    This project's JSON keeps the quotes, since its names may be any texts.
    """
    text = _COLOUR.sub("", text).removeprefix("\ufeff")
    if not _OWN_JSON.search(text):
        for theirs, ours in _QUOTES.items():
            text = text.replace(theirs, ours)
    return text


def find_places(text: str) -> list[Place]:
    """Returns the places of all genotypes in a text, in order; also that of one which is broken, if
    there is nothing else, so that its reader says what is wrong.

    Raises InputError for more than 5000.
    """
    start, value = _alone(text)
    if _WHOLE_STRING.fullmatch(value) and not _NEXT_STRING.search(value) and not re.fullmatch(_STRING, value, re.ASCII):
        return [_place(text, start, start + len(value), 1, "|")]
    places = _places_by_sign(text)
    if places:
        return places
    if value.startswith("{"):
        return [_place(text, start, len(text), 1, "{")]
    if _NUMBERS.fullmatch(_CALLS.sub("", value)):
        return [_place(text, start, start + len(value), 1, "(")]
    return []


def _alone(text: str) -> tuple[int, str]:
    """Returns where the value begins that is all of a text but for a name and quotes, and that
    value; "" for one that is longer than strings and numbers, JSON aside."""
    begun = len(text) - len(text.lstrip(" \t\r\n\"'`"))
    assignment = _ASSIGNMENT.match(text, begun)
    if assignment:
        begun = assignment.end()
    start = len(text) - len(text[begun:].lstrip(" \t\r\n\"'`"))
    value = text[start:].rstrip(" \t\r\n\"'`.,;")
    return start, value if len(value) <= _LONGEST_ALONE or value.startswith("{") else ""


def _places_by_sign(text: str) -> list[Place]:
    """Returns the places that a sign tells, in order; those of six numbers that nothing says to be a
    genotype only if there are no others."""
    places: list[Place] = []
    unsure: list[Place] = []
    line, counted, end = 1, 0, 0
    for match in _PLACE.finditer(text):
        if match.start() < end:
            continue
        start, sign, sure = match.start(), match[0][0], True
        if sign in "'\"":
            start = text.rfind("{", end, start)
            # What follows up to the bracket is of the same dictionary.
            end = match.end() if start < 0 else text.find("}", match.end()) + 1 or len(text)
            if start < 0:
                continue
        elif sign == "N":
            blank = _BLANK_LINE.search(text, start)
            end = blank.start() if blank else len(text)
        elif sign == "{":
            end = max(match.end(), end_of_json(text, start))
        elif sign in "([":
            wrapper = _WRAPPER.search(text, max(0, start - 40), start) if text[start - 1 : start] == "(" else None
            start = wrapper.start() if wrapper else start
            if match[0][1:].lstrip()[0] not in "([":  # six numbers, which could be anything
                said = _is_said(text, start, match.end())
                # Lines of numbers are no reason to refuse a log: its genotypes may come last.
                if said is None or (not said and len(unsure) > _MOST_PLACES):
                    continue
                sure = said
            end = match.end()
        else:
            end = match.end()
        if _is_class(text, start):
            continue
        line += text.count("\n", counted, start)
        counted = start
        (places if sure else unsure).append(_place(text, start, end, line, sign))
        if len(places) > _MOST_PLACES:
            break
    found = places or unsure
    if len(found) > _MOST_PLACES:
        raise InputError(f"holds more than {_MOST_PLACES} genotypes")
    return found


def _line_before(text: str, start: int, most: int = _BEFORE) -> str:
    return _LINE_END.split(text[max(0, start - most) : start])[-1]


def _is_class(text: str, start: int) -> bool:
    return _line_before(text, start, 20).split()[-1:] == ["class"]


def _is_said(text: str, start: int, end: int) -> bool | None:
    """Says of six numbers whether they are a genotype: True behind a word such as genotype or arch,
    False if they may be one, being behind another name or alone on their line, otherwise None."""
    near = text[max(0, start - _NEAR) : start]
    begun = max(near.rfind("\n"), near.rfind("\r")) + 1
    whole = begun > 0 or start < _NEAR
    near = near[begun:].strip(" \t'\"`#>$*-")
    if near and near[-1] not in "=:s":  # the s of is
        return None
    words = near.lower()  # the expression alone would take most of the time of a long text
    if ("arch" in words or "gen" in words) and _SAID_TO_BE_ONE.search(words):
        return True
    if not _CLOSED.match(text, end):
        return None
    named = whole and (not near or _ASSIGNMENT.fullmatch(near) or _title(near))
    return False if named or (near[-1:] == ":" and _KEY.search(near)) else None


def _place(text: str, start: int, end: int, line: int, sign: str) -> Place:
    """Returns the place with the name that it has by what stands before it on its line, and
    whether that is a line of a log."""
    before = _line_before(text, start).rstrip()
    while before.endswith("."):  # the module that Genotype is of
        before = before[:-1].rstrip(_WORD)
    before = before.rstrip().removesuffix("Configuration(values=").rstrip("'\"` \t")
    named = _ASSIGNMENT.fullmatch(before.strip())
    if named and named[1].lower() != "genotype":
        return Place(start, end, line, sign, named[1])
    keys = _KEY.findall(before[-80:]) if before.endswith(":") else []
    if keys:
        return Place(start, end, line, sign, keys[-1])
    title = _title(before)
    return Place(start, end, line, sign, title, bool(title), not title and _LOGGED.search(before) is not None)


def _title(before: str) -> str:
    """Returns the name before a colon, "" if there is none or it is a word of logs."""
    title = _TITLE.fullmatch(before.strip())
    return title[1] if title and not _LOGGED.search(title[1]) else ""
