"""Drop the values of a header that are not valid in a derived object, before any of them is copied.

Text is kept only if it was decoded cleanly, since an object may have another character set than its source.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
"""Value representations to which Specific Character Set applies (PS3.3 C.12.1.1.2)."""

GB2312_ESCAPE = "\x1b$)A"
"""Escape sequence of ISO-IR 58 (PS3.5 annex K); pydicom 3.0 decodes the text after it, but keeps the sequence."""

NOT_TEXT = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd]")
"""Control characters, which no text may contain, and the replacement character, which decoders write."""

NOT_ASCII = re.compile("[^\x00-\x7f]")
UPPER_LATIN = re.compile("[\x80-\xff]")
WITHOUT_LATIN = {"iso8859", "iso_ir_58", "euc_kr", "iso2022_jp", "iso2022_jp_2", "shift_jis"}
"""pydicom's names of the default character set, which is ASCII, and of the East Asian ones that extend it."""

ENUMERATED = {
    "PatientIdentityRemoved": {"YES", "NO"},
    "PatientSexNeutered": {"ALTERED", "UNALTERED"},
    "PregnancyStatus": {"1", "2", "3", "4"},
    "QualityControlSubject": {"YES", "NO"},
    "SmokingStatus": {"YES", "NO", "UNKNOWN"},
}
"""Enumerated values of optional attributes of the modules that are copied (PS3.3 C.7.1.1, C.7.1.4, C.7.2.2)."""

NEEDED_IN_ITEMS = (
    {"ReferencedSOPClassUID", "ReferencedSOPInstanceUID"},
    {"CodeMeaning", "CodingSchemeDesignator"},
)
"""Attributes of type 1 in references and codes (PS3.3 tables 10-11 and 8.8-1); an item has all of a set or none."""


def drop_invalid(header: Any, kept: Iterable[str] = ()) -> list[str]:
    """Delete the elements of a header with values that the standard does not allow.

    Args:
        header: a ``pydicom.Dataset``, changed in place.
        kept: keywords of elements that are left as they are.

    Returns:
        Keywords of the deleted elements. A sequence is deleted if none of its items is left.
    """
    return _drop(header, _doubtful(header), set(kept))


def _drop(header: Any, doubtful: re.Pattern[str], untouched: set[str]) -> list[str]:
    dropped = []
    for tag in [tag for tag in header.keys() if not tag.is_private]:  # noqa: SIM118 - elements would be converted
        keyword = _keyword(tag)
        if keyword not in untouched and not _is_valid(header, tag, doubtful):
            del header[tag]
            dropped.append(keyword)
    return dropped


def _keyword(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag)


def _doubtful(header: Any) -> re.Pattern[str]:
    """Characters that a clean text of a header cannot have, by its character set.

    pydicom reads bytes above 127 as Latin-1 where no character set allows them.
    """
    from pydicom import config
    from pydicom.charset import convert_encodings

    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        encodings = convert_encodings(header.get("SpecificCharacterSet"))
    except Exception:
        # an unknown character set; pydicom's exceptions have no common base
        return NOT_ASCII
    finally:
        config.settings.reading_validation_mode = before
    is_ascii_first = encodings[0] == "iso8859" and set(encodings) <= WITHOUT_LATIN
    return UPPER_LATIN if is_ascii_first else NOT_TEXT


def _is_valid(header: Any, tag: Any, doubtful: re.Pattern[str]) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VM

    try:
        element = header[tag]
        if element.VR == "SQ":
            return _keep_valid_items(element, doubtful)
        if element.VM > 1 and dictionary_has_tag(tag) and dictionary_VM(tag) == "1":
            return False
        if element.VR in TEXTS and element.VM and GB2312_ESCAPE in str(element.value):
            element.value = str(element.value).replace(GB2312_ESCAPE, "")
        values = element.value if element.VM > 1 else [element.value]
        allowed = ENUMERATED.get(element.keyword)
        if allowed and not {str(value) for value in values if value not in (None, "")} <= allowed:
            return False
        return all(_is_valid_value(element.VR, value, doubtful) for value in values)
    except Exception:
        # pydicom's exceptions for values have no common base
        return False


def _is_valid_value(kind: str, value: Any, doubtful: re.Pattern[str]) -> bool:
    from pydicom import config
    from pydicom.valuerep import DA, DT, TM, validate_value

    if value is None or isinstance(value, bytes):
        return True
    text = str(value)
    if kind in TEXTS and (NOT_TEXT.search(text) or doubtful.search(text)):
        return False
    # numbers of binary kinds are valid by their encoding
    is_text = isinstance(value, str) or kind in ("DS", "IS", "PN", "DA", "DT", "TM")
    validate_value(kind, text if is_text else value, config.RAISE)
    if kind == "DS" and text and not math.isfinite(float(text)):
        return False
    if text and kind in ("DA", "DT", "TM"):
        # also not the 31st of February
        {"DA": DA, "DT": DT, "TM": TM}[kind](text)
    return True


def _keep_valid_items(element: Any, doubtful: re.Pattern[str]) -> bool:
    """Remove the items of a sequence with an invalid value; whether any is left."""
    items = [
        item for item in element.value if not _drop(item, doubtful, set()) and _is_complete(item)
    ]
    if len(items) < len(element.value):
        element.value = items
    return bool(items)


def _is_complete(item: Any) -> bool:
    if not len(item):
        return False
    for needed in NEEDED_IN_ITEMS:
        found = {keyword for keyword in needed if item.get(keyword)}
        if found != needed and any(keyword in item for keyword in needed):
            return False
    return True
