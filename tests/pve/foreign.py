# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names for what fakepve and aiohttp leave untyped, so that a signature still says what it takes."""

from __future__ import annotations

from typing import Any

# fakepve's FakeVm or FakeCt, its task records, aiohttp's requests and responses.
Guest = Any
Record = dict[str, Any]
Request = Any
Response = Any
Handler = Any
# The checked parameters of a call, the data of an answer, and a table of (method, path, handler).
Values = dict[str, Any]
Data = Any
Routes = list[tuple[str, str, Handler]]
