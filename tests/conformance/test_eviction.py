from __future__ import annotations

import pytest

from semshare_agents.evict import POLICIES, EvictionPolicy, make_policy
from semshare_agents.testing import EvictionPolicyConformance


class TestPolicies(EvictionPolicyConformance):
    @pytest.fixture(params=sorted(POLICIES))
    def policy(self, request: pytest.FixtureRequest) -> EvictionPolicy:
        return make_policy(request.param)
