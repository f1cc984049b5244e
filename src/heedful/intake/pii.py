"""Personal data in a text: what it is and where it stands.

The paper filters "all prompts in the training split" for it and does not say how (section 1.2).
These are patterns with a check where the kind has one (Luhn, mod 97, octets under 256), so numbers
that are not personal mostly pass. They cannot find names or addresses of streets.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

# Letters of an IBAN per country (registry of ISO 13616).
_IBAN_LENGTHS = {
    **dict.fromkeys(["NO"], 15),
    **dict.fromkeys(["BE"], 16),
    **dict.fromkeys(["DK", "FI", "FO", "GL", "NL"], 18),
    **dict.fromkeys(["MK", "SI"], 19),
    **dict.fromkeys(["AT", "BA", "EE", "KZ", "LT", "LU", "XK"], 20),
    **dict.fromkeys(["CH", "HR", "LI", "LV"], 21),
    **dict.fromkeys(["BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"], 22),
    **dict.fromkeys(["AE", "GI", "IL", "IQ", "TL"], 23),
    **dict.fromkeys(["AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"], 24),
    **dict.fromkeys(["LY", "PT", "ST"], 25),
    **dict.fromkeys(["IS", "TR"], 26),
    **dict.fromkeys(["FR", "GR", "IT", "MC", "MR", "SM"], 27),
    **dict.fromkeys(["AL", "AZ", "BY", "CY", "DO", "EG", "GT", "HU", "LB", "PL", "SV"], 28),
    **dict.fromkeys(["BR", "PS", "QA", "UA"], 29),
    **dict.fromkeys(["JO", "KW", "MU"], 30),
    **dict.fromkeys(["MT", "SC"], 31),
    **dict.fromkeys(["LC"], 32),
}

# Each pattern is anchored by what stands before it, so that a long run is tried once.
_EMAIL = re.compile(
    r"(?<![\w.%+-])[A-Za-z0-9_%+-][\w.%+-]{0,63}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b"
)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])[0-9A-Fa-f:]{5,39}(?![\w:])")
# As cards print it, or in one piece; the lookahead tries every group of a longer row of numbers.
_CARD = re.compile(
    r"(?<![\w.-])(?=([2-6]\d{3}([ -])(?:\d{4}\2\d{4}\2\d{4}|\d{6}\2\d{5})|[2-6]\d{12,18})(?![\w-]))"
)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,28}")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])")
_API_KEY = re.compile(
    r"(?<![\w-])(?:"
    r"sk-(?=[\w-]*\d)[\w-]{20,}"  # OpenAI and those who followed
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}"  # GitHub
    r"|glpat-[\w-]{20,}"  # GitLab
    r"|hf_[A-Za-z0-9]{30,}"  # Hugging Face
    r"|AIza[\w-]{35}"  # Google
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|[rs]k_live_[A-Za-z0-9]{16,}"  # Stripe
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"  # JSON web token
    r")(?![\w-])"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
)
_PHONES = (
    # +44 20 7946 0958, +1 (415) 555-0132, 0049 30 901820
    re.compile(
        r"(?<![\w+])(?<!\d )(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?(?:\(\d{1,5}\)|\d{1,5}+)){2,6}(?!\w)"
    ),
    # (415) 555-0132, 415-555-0132, 1-415-555-0132
    re.compile(
        r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])\d{3}[ .-]\d{4}(?![\w-])"
    ),
    # 020 7946 0958, 030/901820: a trunk zero, an area, a number; 01/02/2024 is a date
    re.compile(
        r"(?<![\w.,+/-])(?<!\d )(?!\d{1,2}[/-]\d{1,2}[/-])"
        r"(?:\(0[1-9]\d{0,3}\)|0[1-9]\d{0,3})(?:[ /-]\d{2,8}){1,4}(?![\w/-])"
    ),
    # 555-0132 where the words before it say what it is
    re.compile(
        r"\b(?i:call|phone|telephone|tel|mobile|cell|fax|dial|text|whatsapp)\b"
        r"[^\n\d]{0,24}(?P<number>\d{3}[ .-]\d{4}|\d{9,13})(?![\w-])"
    ),
)
_PHONE_DIGITS = range(9, 16)  # 15 is the most that E.164 allows


def find_pii(text: str) -> list[tuple[str, int, int]]:
    """The (kind, start, end) of each piece of personal data, in order, none inside another.

    Kinds: email, api_key, iban, credit_card, us_ssn, ip, phone; where two overlap, the one earlier
    in this list counts.
    """
    found: list[tuple[str, int, int]] = []
    for kind, finder in _FINDERS.items():
        for start, end in finder(text):
            if all(end <= other_start or start >= other_end for _, other_start, other_end in found):
                found.append((kind, start, end))
    return sorted(found, key=lambda piece: piece[1])


def _matches(*patterns: re.Pattern[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    return lambda text: (match.span() for p in patterns for match in p.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2])
        places = [k for k in range(*match.span()) if text[k] != " "]
        if length is None or len(places) < length:
            continue
        end = places[length - 1] + 1
        if text[end : end + 1].isalnum():
            continue
        code = "".join(text[k] for k in places[:length])
        # ISO 7064: the first four characters go to the end, letters count from A = 10
        if int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1:
            yield match.start(), end


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = [int(c) for c in match[1] if c not in " -"]
        # From the right, every second digit is doubled and its own digits are added (Luhn).
        doubled = [2 * d - 9 * (d > 4) if k % 2 else d for k, d in enumerate(reversed(digits))]
        if sum(doubled) % 10 == 0:
            yield match.span(1)


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
        groups = [group for group in match[0].split(":") if group]
        if ":" in match[0] and len(groups) < 3:
            continue  # a::b is more often a name in code, ::1 is nobody's
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified or address.is_multicast):
            yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for pattern in _PHONES[:-1]:
        for match in pattern.finditer(text):
            if sum(c.isdigit() for c in match[0]) in _PHONE_DIGITS:
                yield match.span()
    for match in _PHONES[-1].finditer(text):
        yield match.span("number")


_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": _matches(_EMAIL),
    "api_key": _matches(_API_KEY),
    "iban": _ibans,
    "credit_card": _cards,
    "us_ssn": _matches(_SSN),
    "ip": _addresses,
    "phone": _phones,
}
