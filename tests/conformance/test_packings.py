from __future__ import annotations

import pytest

from semshare_agents.kv.packing import PACKINGS, Packing, make_packing
from semshare_agents.testing import PackingConformance

ERRORS = {"raw": 0.0, "int8": 0.01, "k5v4": 0.1}
"""What each packing may lose: rounding to 8 bits, and to 5 and 4, of heads whose channels were mixed."""


class TestPackings(PackingConformance):
    @pytest.fixture(params=list(PACKINGS))
    def packing(self, request: pytest.FixtureRequest) -> Packing:
        return make_packing(request.param)

    @pytest.fixture
    def most_error(self, packing: Packing) -> float:
        return ERRORS[packing.name]
