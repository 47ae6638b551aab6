"""The texts that genotypes are written in, and the genotype that is meant among all that a text
holds.

Both ways go through `ParsedGenotype`. Readers only parse; `Genotype` checks that it is valid.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from base.checks import InputError
from base.texts import excerpt, show
from supernet.genotypes.benchmark_forms import NASBENCH301, NASLIB, NNI, read_dictionary, read_numbers
from supernet.genotypes.darts_forms import DARTS, PT_DARTS, read_call, read_fields
from supernet.genotypes.json_form import JSON, read_json
from supernet.genotypes.literals import Call, read_value
from supernet.genotypes.nasbench201_forms import AUTODL, NASBENCH201, read_nasbench201
from supernet.genotypes.parsed import Form, ParsedGenotype, items

LARGEST_TEXT = 2**22  # characters, bytes of a file: enough for the log of a long search
_MOST_PLACES = 5_000  # genotypes in a text
_LONGEST_ALONE = 4096  # characters of a NAS-Bench-201 string or of numbers
_LONGEST_CONFIGURATION = 2**16  # characters

FORMS: Mapping[str, Form] = {
    "darts": DARTS,
    "pt_darts": PT_DARTS,
    "nasbench201": NASBENCH201,
    "autodl": AUTODL,
    "nni": NNI,
    "naslib": NASLIB,
    "nasbench301": NASBENCH301,
    "json": JSON,
}
_EXPECTED = (
    "JSON, a NAS-Bench-201 string or Genotype(...), or what AutoDL, nni, NASLib or NAS-Bench-301 print, "
    "alone, behind NAME = or in a log"
)

# Every repetition is bounded, so that no text takes long, and every choice begins with a sign of its
# own, by which the search skips the rest of a log.
_EDGE = r"\s{0,20}\w{1,60}\s{0,20}~\s{0,20}[0-9]{1,4}\s{0,20}\|"
_STRING = rf"\|(?:{_EDGE}){{1,20}}(?:\s{{0,20}}\+\s{{0,20}}\|(?:{_EDGE}){{1,20}}){{0,9}}"
_CONFIGURATION = "NetworkSelectorDatasetInfo:"
_KEYS = rf"(?:normal|reduce)/(?:op|input)_[0-9]|(?:cell/)?[0-3]_[0-3]['\"]|{_CONFIGURATION}|(?:normal|reduce)_concat['\"]"
_PLACE = re.compile(
    rf"Genotype\s{{0,20}}\(|Structure\s{{0,20}}\([0-9]{{1,4}} nodes with {_STRING}\)|{_STRING}"
    rf"|'(?:{_KEYS})|\"(?:{_KEYS})|{_CONFIGURATION}[^\s,]{{1,80}}, Value:",
    re.ASCII,
)
_WHOLE_STRING = re.compile(r"\|[\w\s|~+.\-]*")
_NUMBERS = re.compile(r"[\[(][\s\d,()\[\]]*[\])]")
_NUMPY = re.compile(r"\b(?:np|numpy)\.u?int[0-9]+\b")
_ASSIGNMENT = re.compile(r"(?:[#>$]\s*)?([A-Za-z_][\w.]*)\s*(?::\s*\w+\s*)?=")
_KEY = re.compile(r"['\"]([^'\"\n]{1,60})['\"]\s*:")
_LOGGED = re.compile(
    r"[0-9]:[0-9][0-9]|(?<!--)\b(?:INFO|DEBUG|WARNING|epoch|gent?otype|geno|arch|architecture)\b", re.IGNORECASE
)
_LAST_OF_LINE = re.compile(r"[\s'\"`)\],;.}]*(?:#.*)?|['\"]\s*,.*")  # the latter as in JSON
_LINE = re.compile(r"[^\r\n]*")
_LINE_END = re.compile(r"[\r\n]")
_BLANK_LINE = re.compile(r"\n\s*\n")
_WORD = string.ascii_letters + string.digits + "_"
_QUOTES = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}  # of word processors, for those of Python
_BEFORE = 300  # characters of a line before a genotype that are looked at


class _Place(NamedTuple):
    """The place of a genotype in a text: the characters where it begins and where the search goes
    on, its line from 1, the first sign of what tells it, the name that it is given there, and
    whether it is on a line of a log."""

    start: int
    end: int
    line: int
    sign: str
    name: str
    logged: bool


def read_text(text: str, which: str | None = None) -> ParsedGenotype:
    """Returns the genotype in a text: the only one, the last one of a log, or that which `which`
    names or numbers, from 1.

    Raises InputError if there is none, or if several could be meant.
    """
    if len(text) > LARGEST_TEXT:
        raise InputError(f"not a genotype: {len(text)} characters are more than the {LARGEST_TEXT} allowed")
    alone = _read_alone(text.strip("\ufeff \t\r\n"))
    if alone is not None:
        if which not in (None, "1"):
            raise InputError(f"holds one genotype alone, and none of the name or number {show(which)}")
        return alone()
    for theirs, ours in _QUOTES.items():
        text = text.replace(theirs, ours)
    places = _places_in(text)
    if not places:
        text = text.strip()
        instead = f"the text begins with {show(text[:30])}" if text else "the text is empty"
        raise InputError(f"not a genotype: expected {_EXPECTED}, but {instead}")
    place, note = _chosen(places, which)
    try:
        found = _read_at(text, place)
    except InputError as error:
        if len(places) == 1:
            raise
        raise InputError(f"the genotype of line {place.line}: ", *error.parts) from None
    return found._replace(note="; ".join(filter(None, (note, found.note))))


def _read_alone(text: str) -> Callable[[], ParsedGenotype] | None:
    """Returns the reader of a text that is nothing but one genotype, None for any other.

    This project's JSON comes first, since its names may be any texts.
    """
    if text.startswith("{") and (re.match(r"\{\s*\"format\"", text) or not _PLACE.search(text)):
        return lambda: read_json(text)
    assignment = _ASSIGNMENT.match(text)
    value = text[assignment.end() if assignment else 0 :].strip(" \t\r\n\"'`;")
    if len(value) > _LONGEST_ALONE:
        return None
    if _WHOLE_STRING.fullmatch(value):
        return lambda: read_nasbench201(value)
    if _NUMBERS.fullmatch(_NUMPY.sub("", value)):
        return lambda: read_numbers(items("NASLib's numbers", read_value(value)[0]))
    return None


def _places_in(text: str) -> list[_Place]:
    places: list[_Place] = []
    line, counted, end = 1, 0, 0
    for match in _PLACE.finditer(text):
        if match.start() < end:
            continue
        start, sign = match.start(), match[0][0]
        if sign in "'\"":
            start = text.rfind("{", end, start)
            # What follows up to the bracket is of the same dictionary.
            end = match.end() if start < 0 else text.find("}", match.end()) + 1 or len(text)
            if start < 0:
                continue
        elif sign == "N":
            blank = _BLANK_LINE.search(text, start)
            end = blank.start() if blank else len(text)
        else:
            end = match.end()
        before = _LINE_END.split(text[max(0, start - _BEFORE) : start])[-1]
        if before.split()[-1:] == ["class"]:
            continue
        line += text.count("\n", counted, start)
        counted = start
        places.append(_Place(start, end, line, sign, *_circumstances(before)))
        if len(places) > _MOST_PLACES:
            raise InputError(f"holds more than {_MOST_PLACES} genotypes")
    return places


def _circumstances(before: str) -> tuple[str, bool]:
    """Returns the name that a genotype has by what stands before it on its line, and whether that
    is a line of a log."""
    before = before.rstrip()
    while before.endswith("."):  # the module that Genotype is of
        before = before[:-1].rstrip(_WORD)
    before = before.rstrip().removesuffix("Configuration(values=").rstrip("'\"` \t")
    named = _ASSIGNMENT.fullmatch(before.strip())
    if named and named[1].lower() != "genotype":
        return named[1], False
    keys = _KEY.findall(before[-80:]) if before.endswith(":") else []
    return (keys[-1], False) if keys else ("", _LOGGED.search(before) is not None)


def _chosen(places: Sequence[_Place], which: str | None) -> tuple[_Place, str]:
    """Returns the place that is meant, and a line that says so where several would do.

    Raises InputError where it cannot be said.
    """
    count = len(places)
    if which is not None:
        if re.fullmatch("[0-9]{1,5}", which) and 1 <= int(which) <= count:
            return places[int(which) - 1], ""
        named = [place for place in places if place.name == which]
        if len(named) == 1:
            return named[0], ""
        found = f"{len(named)} genotypes have" if named else "no genotype has"
        raise InputError(f"{found} the name or number {show(which)}; it holds {_listed(places)}")
    last = places[-1]
    if count == 1:
        return last, ""
    if any(place.logged for place in places) and not any(place.name for place in places):
        return (
            last,
            f"a log with {count} genotypes, of which the last is taken (line {last.line}); FILE#1 to FILE#{count} choose",
        )
    names = [place.name for place in places if place.name]
    name = f" or FILE#{excerpt(names[-1])}" if names else ""
    raise InputError(f"holds {_listed(places)}; say which one is meant, as in FILE#{count}{name}")


def _listed(places: Sequence[_Place]) -> str:
    first = [f"{number} {excerpt(place.name)}".rstrip() + f" (line {place.line})" for number, place in enumerate(places[:4], 1)]
    more = ", ..." if len(places) > len(first) else ""
    return f"{len(places)} genotype{'s' if len(places) > 1 else ''}: {', '.join(first)}{more}"


def _read_at(text: str, place: _Place) -> ParsedGenotype:
    if place.sign == "N":
        return _dictionary(_lines_of_configuration(text[place.start : place.end]))
    if place.sign in "S|":
        found, end = read_nasbench201(text[place.start : place.end]), place.end
    else:
        value, end = read_value(text, place.start, "Genotype(...)" if place.sign == "G" else "dictionary")
        found = read_call(value) if isinstance(value, Call) else _dictionary(value)
    rest = _LINE.match(text, end)
    if not place.logged and rest and not _LAST_OF_LINE.fullmatch(rest[0]):
        raise InputError(f"genotype: there is something else behind it: {excerpt(rest[0].strip())}")
    return found


def _lines_of_configuration(text: str) -> dict[str, object]:
    """Returns the values that ConfigSpace prints one a line, as `name, Value: 'value'`."""
    content: dict[str, object] = {}
    for line in text[:_LONGEST_CONFIGURATION].splitlines():
        name, comma, value = line.strip().partition(", Value: ")
        if comma and name in content:
            raise InputError(f"configuration: {excerpt(name)} is there twice")
        if comma:
            content[name] = value.strip("'\"")
    return content


def _dictionary(content: Mapping[str, object]) -> ParsedGenotype:
    found = read_dictionary(content)
    return read_fields("dictionary", "key", content) if found is None else found
