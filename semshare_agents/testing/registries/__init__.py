"""What every registry database must do. The tests are coroutines: run them with pytest-asyncio in auto mode."""

from semshare_agents.testing.registries.blocks import Blocks
from semshare_agents.testing.registries.books import Books
from semshare_agents.testing.registries.finding import Finding
from semshare_agents.testing.registries.forgetting import Forgetting
from semshare_agents.testing.registries.made import FINGERPRINT, SIZE, OpenRegistry, block, turn
from semshare_agents.testing.registries.notes import Notes
from semshare_agents.testing.registries.pins import Pins

__all__ = ["FINGERPRINT", "SIZE", "OpenRegistry", "RegistryConformance", "block", "turn"]


class RegistryConformance(Finding, Blocks, Pins, Notes, Forgetting, Books):
    """Tests of the registry on one kind of database. Derive from it and give a fixture `url` of an empty database."""
