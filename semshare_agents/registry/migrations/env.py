"""What Alembic runs: the revisions, in the caller's connection and transaction."""

from alembic import context

from semshare_agents.registry.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
