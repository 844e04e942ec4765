from __future__ import annotations

import pytest

from semshare_agents.match.matchers import MATCHERS, Matcher, make_matcher
from semshare_agents.testing import MatcherConformance


class TestMatchers(MatcherConformance):
    @pytest.fixture(params=list(MATCHERS))
    def matcher(self, request: pytest.FixtureRequest) -> Matcher:
        return make_matcher(request.param)
