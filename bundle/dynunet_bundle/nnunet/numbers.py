"""Stand-ins for what a pickle of numpy looks up: they make plain numbers, and nothing else.

numpy's own functions are not safe with arguments from others: a data type whose flags were changed makes numpy read any
address of memory.
"""

from typing import Any

import numpy as np

NUMBER_TYPES = (
    *("f2", "f4", "f8", "b1", "i1", "i2", "i4", "i8"),
    *("u1", "u2", "u4", "u8"),
)
"""Data types of numbers, as numpy's pickles name them."""


class NumberType:
    """Stands for ``numpy.dtype``.

    Args:
        name: e.g. ``f8``.
        others: flags of numpy, which are not used.
    """

    def __init__(self, name: Any, *others: Any) -> None:
        if name not in NUMBER_TYPES:
            raise ValueError("it has an array, or an object, as a number")
        self.name: str = name

    def __setstate__(self, state: Any) -> None:
        """Ignore the rest of the data type, such as the order of bytes: numpy writes that of the machine."""


def number_from_bytes(kind: NumberType, data: bytes) -> int | float:
    """Stands for ``numpy._core.multiarray.scalar``.

    Args:
        kind: data type.
        data: the bytes of the number.
    """
    if not isinstance(kind, NumberType) or not isinstance(data, bytes):
        raise TypeError("a number of numpy has a type and bytes")
    found: int | float = np.frombuffer(data, kind.name, 1)[0].item()
    return found


STAND_INS: dict[str, Any] = {
    "numpy.dtype": NumberType,
    "numpy._core.multiarray.scalar": number_from_bytes,
    # its name in files of numpy 1
    "numpy.core.multiarray.scalar": number_from_bytes,
}
"""By the names in pickles."""
