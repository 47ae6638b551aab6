"""The texts that genotypes are written in, and the genotype that is meant among all that a text
holds.

Both ways go through `ParsedGenotype`. Readers only parse; `Genotype` checks that it is valid.
"""

import re
from collections.abc import Mapping, Sequence

from base.checks import InputError
from base.texts import excerpt, show
from supernet.genotypes.benchmark_forms import NASBENCH301, NASLIB, NNI, read_dictionary, read_numbers
from supernet.genotypes.darts_forms import DARTS, PT_DARTS, read_call, read_fields
from supernet.genotypes.json_form import JSON, read_json
from supernet.genotypes.literals import Call, read_value
from supernet.genotypes.nasbench201_forms import AUTODL, NASBENCH201, read_nasbench201
from supernet.genotypes.parsed import Form, ParsedGenotype, items
from supernet.genotypes.places import Place, find_places, plain_text

LARGEST_TEXT = 2**22  # characters, bytes of a file: enough for the log of a long search
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
_LAST_OF_LINE = re.compile(r"[\s'\"`)\],;.}]*(?:#.*)?|['\"]\s*,.*|[\s)\]}]*,\s*['\"].*")  # the latter two as in JSON
_LINE = re.compile(r"[^\r\n]*")


def read_text(text: str, which: str | None = None) -> ParsedGenotype:
    """Returns the genotype in a text: the only one, the last one of a log, or that which `which`
    names or numbers, from 1.

    Raises InputError if there is none, or if several could be meant.
    """
    if len(text) > LARGEST_TEXT:
        raise InputError(f"not a genotype: {len(text)} characters are more than the {LARGEST_TEXT} allowed")
    text = plain_text(text)
    places = find_places(text)
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


def _chosen(places: Sequence[Place], which: str | None) -> tuple[Place, str]:
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
    if any(place.logged for place in places) and not any(place.name and not place.titled for place in places):
        return (
            last,
            f"a log with {count} genotypes, of which the last is taken (line {last.line}); FILE#1 to FILE#{count} choose",
        )
    names = [place.name for place in places if place.name]
    name = f" or FILE#{excerpt(names[-1])}" if names else ""
    raise InputError(f"holds {_listed(places)}; say which one is meant, as in FILE#{count}{name}")


def _listed(places: Sequence[Place]) -> str:
    first = [f"{number} {excerpt(place.name)}".rstrip() + f" (line {place.line})" for number, place in enumerate(places[:4], 1)]
    more = ", ..." if len(places) > len(first) else ""
    return f"{len(places)} genotype{'s' if len(places) > 1 else ''}: {', '.join(first)}{more}"


def _read_at(text: str, place: Place) -> ParsedGenotype:
    if place.sign == "N":
        return _dictionary(_lines_of_configuration(text[place.start : place.end]))
    if place.sign in "S|":
        found, end = read_nasbench201(text[place.start : place.end]), place.end
    elif place.sign == "{":
        found, end = read_json(text, place.start)
    elif place.sign in "([":
        numbers, end = read_value(text, place.start)
        found = read_numbers(items("NASLib's numbers", numbers))
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
