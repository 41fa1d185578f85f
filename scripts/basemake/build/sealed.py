"""Sealed JSON: an object whose last member is the SHA-256 of all that stands before it.

So a flipped bit in the file itself is noticed, as one in a file that a record describes is.
"""

import hashlib

SEAL = ', "sealed": "'


def sealed(text: str) -> str:
    """Return the JSON text of an object with one more member: the SHA-256 of what precedes it."""
    before = text.removesuffix("}")
    return f'{before}{SEAL}{hashlib.sha256(before.encode()).hexdigest()}"}}'


def check_seal(content: bytes) -> None:
    """Raise ValueError if sealed JSON is not as it was sealed.

    JSON without a seal, as of earlier releases and made by hand, passes.
    """
    before, seal, rest = content.rpartition(SEAL.encode())
    if seal and rest.strip() != f'{hashlib.sha256(before).hexdigest()}"}}'.encode():
        raise ValueError("it is not as it was sealed")
