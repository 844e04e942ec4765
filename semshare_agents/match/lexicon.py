"""What matching knows of a model's tokens; made when first needed."""

from __future__ import annotations

from functools import cached_property

from semshare_agents.match.signature import Signer
from semshare_agents.match.tokens import TokenCodes
from semshare_agents.match.words import TokenTexts
from semshare_agents.model.loading import LoadedModel
from semshare_agents.values import Scope


class Lexicon:
    """Texts, LSH codes and signatures of a model's tokens.

    Args:
        model: The model.
    """

    def __init__(self, model: LoadedModel):
        self._model = model
        self._signers: dict[bytes, Signer] = {}
        self.texts = TokenTexts(model.tokenizer)

    @cached_property
    def codes(self) -> TokenCodes:
        """The LSH codes of the model's tokens."""
        return TokenCodes(self._model.embeddings)

    def signer(self, scope: Scope) -> Signer:
        """The signatures of a scope."""
        if scope.hash_key not in self._signers:
            self._signers[scope.hash_key] = Signer(len(self._model.embeddings), scope.hash_key)
        return self._signers[scope.hash_key]
