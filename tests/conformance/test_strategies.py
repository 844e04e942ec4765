from __future__ import annotations

import pytest

from semshare_agents.reuse.strategies import STRATEGIES, SelectionStrategy, make_strategy
from semshare_agents.testing import StrategyConformance


class TestStrategies(StrategyConformance):
    @pytest.fixture(params=list(STRATEGIES))
    def strategy(self, request: pytest.FixtureRequest) -> SelectionStrategy:
        return make_strategy(request.param)
