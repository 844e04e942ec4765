"""The exception tree.

::

    SemShareError
    ├── ConfigurationError (ValueError)     a setting or argument is wrong
    │   ├── CalibrationError                a drift calibration is missing turns, unreadable or another model's
    │   ├── NotStoredError                  a tenant, session or turn that is named is not stored
    │   └── PinError                        what is pinned does not fit a budget or a quota, or is not there
    ├── ModelError
    │   ├── ModelNotFoundError              no model at that folder, file or hub id
    │   ├── UnsupportedModelError           a model that cannot answer turns, and why
    │   └── ModelChecksumError              a downloaded model file is not the published one
    ├── PromptError (ValueError)
    │   ├── InvalidMessagesError            messages are empty or malformed
    │   ├── InvalidToolsError               tools or the choice among them are malformed
    │   ├── InvalidSchemaError              a JSON schema that answers cannot be held to
    │   ├── TemplateError                   the chat template refuses the messages
    │   └── ContextLengthError              prompt and answer exceed the model's context
    ├── RegistryError
    │   ├── RegistryUnavailableError        the database cannot be opened
    │   ├── SchemaVersionError              the database belongs to another schema version
    │   └── ForgottenError                  what a turn belongs to was forgotten while it was under way
    ├── StoreError
    │   ├── StoreNotWritableError           the store's folder cannot be written
    │   └── CorruptBlockError               a KV file is damaged or not what its name says
    ├── SealedError                         stored data is encrypted with a key that is not given
    │   └── DamagedSealError                encrypted data is damaged or in another place than it was written for
    └── ClosedError (RuntimeError)          the adapter was closed
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class SemShareError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(SemShareError, ValueError):
    """A setting or an argument is wrong; the message says which and what is allowed."""


class CalibrationError(ConfigurationError):
    """A drift calibration cannot be made or used; the message says what to run."""


class NotStoredError(ConfigurationError):
    """A tenant, session or turn that is named is not stored; the message has the nearest names."""


class PinError(ConfigurationError):
    """What is pinned does not fit a budget or a quota, or is not there; the message says what to do."""


class ModelError(SemShareError):
    """A model cannot be loaded."""


class ModelNotFoundError(ModelError):
    """There is no causal language model at the given folder, file or hub id."""


class UnsupportedModelError(ModelError):
    """A model, its weights or its tokenizer cannot answer turns; the message says why and what to do."""


class ModelChecksumError(ModelError):
    """A fetched model file differs from the published one."""


class PromptError(SemShareError, ValueError):
    """The caller's messages cannot be turned into a prompt."""


class InvalidMessagesError(PromptError):
    """The message list is empty or an entry is malformed."""


class InvalidToolsError(PromptError):
    """A tool or the choice among tools is malformed."""


class InvalidSchemaError(PromptError):
    """A JSON schema is malformed, or asks for what constrained decoding cannot do."""


class TemplateError(PromptError):
    """The model's chat template refuses the messages."""


class ContextLengthError(PromptError):
    """Prompt and answer do not fit into the model's context window."""


class RegistryError(SemShareError):
    """The SQL registry cannot do what was asked."""


class RegistryUnavailableError(RegistryError):
    """The database cannot be opened or reached."""


class SchemaVersionError(RegistryError):
    """The database was written by another schema version of this package."""


class ForgottenError(RegistryError):
    """What a turn belongs to was forgotten while it was under way: it is answered, not remembered."""


class StoreError(SemShareError):
    """The KV store cannot do what was asked."""


class StoreNotWritableError(StoreError):
    """The store's folder cannot be created or written."""


class CorruptBlockError(StoreError):
    """A stored block is damaged, truncated or not the block its name says."""


class SealedError(SemShareError):
    """Stored data is encrypted with a key that is not among `encryption_keys`."""


class DamagedSealError(SealedError):
    """Encrypted data is damaged, or stands in another place than it was written for."""


class ClosedError(SemShareError, RuntimeError):
    """The adapter was closed; open a new one."""


def nearest(known: Sequence[str], name: str) -> str:
    """The end of a message that says that a name is not known: which one may be meant.

    Args:
        known: What there is, the likeliest first.
        name: What was said.
    """
    folded = {known_name.casefold(): known_name for known_name in reversed(known)}
    near = [folded[match] for match in get_close_matches(name.casefold(), folded, n=3)]
    if near:
        return f"; is it {' or '.join(map(repr, near))}?"
    return "; none of its names is like it" if known else "; nothing is stored yet"
