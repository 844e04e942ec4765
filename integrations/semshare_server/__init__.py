"""An OpenAI-compatible server over one `SemShareLLM`, with a page that shows the reuse."""

from semshare_server.app import create_app
from semshare_server.keys import Keyring

__all__ = ["Keyring", "create_app"]
