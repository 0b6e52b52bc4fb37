"""What licences of weights allow, and what the owners of the training pictures say; facts, not advice.

A gate such as `masklet weights licences --fail-on copyleft` asks for `kinds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

NON_COMMERCIAL = "non-commercial"  # the weights may not be used commercially
COPYLEFT = "copyleft"  # what is made from the weights must be passed on under the same licence
RESEARCH_DATA = "non-commercial-data"  # the pictures they learned from were given for research and teaching only
UNKNOWN = "unknown"  # nobody said
KINDS = (NON_COMMERCIAL, COPYLEFT, RESEARCH_DATA, UNKNOWN)


@dataclass(frozen=True)
class Licence:
    """One licence by its SPDX name, where its text is, and which of `KINDS` it is."""

    spdx: str
    text: str
    kinds: tuple[str, ...] = ()


LICENCES: Mapping[str, Licence] = MappingProxyType(
    {
        licence.spdx: licence
        for licence in (
            Licence("Apache-2.0", "https://spdx.org/licenses/Apache-2.0.html"),
            Licence("BSD-3-Clause", "https://spdx.org/licenses/BSD-3-Clause.html"),
            Licence("MIT", "https://spdx.org/licenses/MIT.html"),
            Licence("CC-BY-SA-3.0", "https://spdx.org/licenses/CC-BY-SA-3.0.html", (COPYLEFT,)),
            Licence("CC-BY-NC-4.0", "https://spdx.org/licenses/CC-BY-NC-4.0.html", (NON_COMMERCIAL,)),
            Licence("GPL-3.0-only", "https://spdx.org/licenses/GPL-3.0-only.html", (COPYLEFT,)),
        )
    }
)

# Data sets whose terms of access say "non-commercial research and educational purposes" or the like.
RESEARCH_ONLY = frozenset({"ADE20K", "Cityscapes", "ImageNet", "SA-1B"})


def kinds(licence: str | None, data: Iterable[str] = ()) -> tuple[str, ...]:
    """Which of `KINDS` weights under `licence` are that learned from `data`."""
    found = LICENCES[licence].kinds if licence is not None and licence in LICENCES else (UNKNOWN,)
    return found + ((RESEARCH_DATA,) if RESEARCH_ONLY & set(data) else ())
