"""Text from untrusted evidence, made harmless for terminals, logs and XML."""

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: object) -> str:
    """Return one line in which control characters, overrides of direction and line breaks are visible escapes."""
    return "".join(_visible(character) for character in str(text))


def short(text: object, most: int = 40) -> str:
    """Return harmless text of at most `most` characters, for labels."""
    whole = plain(text)
    return whole if len(whole) <= most else f"{whole[: most - 1]}…"


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if unicodedata.category(character) in _HIDDEN:
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character
