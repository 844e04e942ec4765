"""Scopes: one tenant's part of one model, and how its names are keyed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, and_, insert, literal, select, update

from semshare_agents.registry import tables as t
from semshare_agents.registry.database import AnyRow, Part
from semshare_agents.registry.erasure import NEWEST_ACT
from semshare_agents.registry.naming import ensure_tenant
from semshare_agents.values import Scope

log = logging.getLogger(__name__)

OTHER_KEY = (
    "its names are of another key (names.key in the home, or the setting names_key), of another pool or of an earlier "
    "version; with the key of then they are found again"
)


class Scopes(Part):
    """The part of the registry that knows scopes."""

    async def scope(self, tenant: str, fingerprint: str, model: str = "", *, make: bool = True) -> Scope:
        """The scope of a tenant and a model, made when it is new.

        Where its names were made with another key, they are no longer found; a warning says so once.

        Args:
            tenant: Whose.
            fingerprint: Of the model and how its KV is packed.
            model: What the model was loaded from.
            make: Whether a new one is written down; else its id is 0, and only what others share with it is found.
        """
        names = self.database.names
        seed, check = names.seed(tenant, fingerprint), names.check(tenant, fingerprint)
        found, forgets = await self._scope_rows(fingerprint, names.members(tenant))
        mine = found.get(tenant)
        if mine is None and not make:
            reads = tuple(sorted({0, *(row.id for row in found.values())}))
            return Scope(0, tenant, fingerprint, seed, reads, forgets)
        if mine is None or mine.key_check != check:
            found[tenant] = mine = await self._make_scope(tenant, fingerprint, model, check)
            if mine.key_check != check:
                log.warning("nothing stored so far is found for tenant %s: %s", tenant, OTHER_KEY)
        reads = tuple(sorted(row.id for row in found.values()))
        return Scope(mine.id, tenant, fingerprint, seed, reads, forgets)

    async def tenants_of_other_keys(self) -> list[str]:
        """Tenants whose names were last made with another key or in another pool than now."""
        query = select(t.tenants.c.name, t.scopes.c.fingerprint, t.scopes.c.key_check).join(
            t.scopes, t.scopes.c.tenant_id == t.tenants.c.id
        )
        async with self.database.reading() as c:
            rows = (await c.execute(query)).all()
        check = self.database.names.check
        return sorted({r.name for r in rows if r.key_check not in (None, check(r.name, r.fingerprint))})

    async def _scope_rows(self, fingerprint: str, tenants: Sequence[str]) -> tuple[dict[str, AnyRow], int]:
        """A model's scopes by tenant; and the newest act of forgetting."""
        query = (
            select(t.scopes.c.id, t.scopes.c.key_check, t.tenants.c.name)
            .join(t.tenants, t.tenants.c.id == t.scopes.c.tenant_id)
            .where(t.scopes.c.fingerprint == fingerprint, t.tenants.c.name.in_(tenants))
        )

        def look(c: Connection) -> tuple[dict[str, AnyRow], int]:
            # What is forgotten after this reading is newer than what it says.
            forgets = int(c.execute(NEWEST_ACT).scalar_one())
            return {row.name: row for row in c.execute(query)}, forgets

        return await self.database.looking(look)

    async def _make_scope(self, tenant: str, fingerprint: str, model: str, check: str) -> AnyRow:
        """Make a scope, or note that its names are of another key from now on; its row as it was before that."""
        async with self.database.writing() as c:
            tenant_id = await ensure_tenant(c, tenant)
            columns = (t.scopes.c.id, t.scopes.c.key_check, literal(tenant).label("name"))
            where = and_(t.scopes.c.tenant_id == tenant_id, t.scopes.c.fingerprint == fingerprint)
            row = (await c.execute(select(*columns).where(where))).first()
            if row is not None:
                await c.execute(update(t.scopes).where(where).values(key_check=check))
                return row
            values = {"tenant_id": tenant_id, "fingerprint": fingerprint, "model": model, "key_check": check}
            return (await c.execute(insert(t.scopes).values(**values).returning(*columns))).one()
