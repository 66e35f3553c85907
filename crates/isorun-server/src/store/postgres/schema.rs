//! The schema, as migration steps from an empty database to the current format.

use deadpool_postgres::Pool;

use super::{StoreError, error_of, unavailable};

/// The key of the lock under which one process at a time migrates: "isorun" in ASCII.
const MIGRATION_LOCK: i64 = 0x6973_6f72_756e;

/// The migration steps, applied once each, in order. A released step is never changed.
const STEPS: &[&str] = &[
    "
    CREATE TABLE cluster (
        only_row BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (only_row),
        secret TEXT NOT NULL,
        authority_certificate TEXT NOT NULL,
        authority_key TEXT NOT NULL,
        -- The last collection of garbage in the object store.
        collected_at TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    -- The epoch of a node is raised when it joins and when it is declared dead.
    CREATE TABLE nodes (
        id TEXT PRIMARY KEY,
        epoch BIGINT NOT NULL,
        state TEXT NOT NULL,
        url TEXT NOT NULL,
        lease_until TIMESTAMPTZ NOT NULL,
        joined_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        version TEXT NOT NULL,
        has_linux BOOLEAN NOT NULL,
        interpreters TEXT NOT NULL,
        cpus BIGINT NOT NULL,
        busy_cpus_permille BIGINT NOT NULL,
        mem_bytes BIGINT NOT NULL,
        mem_free_bytes BIGINT NOT NULL,
        disk_free_bytes BIGINT NOT NULL,
        pooled BIGINT NOT NULL,
        max_sandboxes BIGINT NOT NULL,
        max_tenant_runs BIGINT NOT NULL,
        max_tenant_snapshots BIGINT NOT NULL
    );
    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        admin BOOLEAN NOT NULL,
        created_at BIGINT NOT NULL,
        revoked_at BIGINT
    );
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        node TEXT NOT NULL REFERENCES nodes (id),
        tenant TEXT NOT NULL,
        image TEXT NOT NULL,
        digest TEXT NOT NULL,
        status TEXT NOT NULL,
        vcpus BIGINT NOT NULL,
        mem_mib BIGINT NOT NULL,
        disk_mib BIGINT NOT NULL,
        timeout_ms BIGINT NOT NULL,
        defaults TEXT NOT NULL,
        network TEXT NOT NULL,
        on_idle TEXT NOT NULL,
        auto_resume BOOLEAN NOT NULL,
        generation BIGINT NOT NULL DEFAULT 0,
        create_ms BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        destroyed_at BIGINT,
        reason TEXT,
        cpu_ms BIGINT NOT NULL DEFAULT 0,
        mem_peak_bytes BIGINT NOT NULL DEFAULT 0,
        disk_used_bytes BIGINT NOT NULL DEFAULT 0,
        audit_bytes BIGINT NOT NULL DEFAULT 0,
        -- The checkpoint of this generation in the object store.
        tree TEXT,
        tree_generation BIGINT,
        -- Its node has begun to resume it.
        resuming BOOLEAN NOT NULL DEFAULT FALSE
    );
    CREATE INDEX runs_open_of_node ON runs (node, created_at) WHERE destroyed_at IS NULL;
    CREATE INDEX runs_open_of_tenant ON runs (tenant) WHERE destroyed_at IS NULL;
    CREATE INDEX runs_past ON runs (tenant, destroyed_at, id) WHERE destroyed_at IS NOT NULL;
    CREATE INDEX runs_past_of_all ON runs (destroyed_at) WHERE destroyed_at IS NOT NULL;
    CREATE TABLE audit (
        run_id TEXT NOT NULL,
        seq BIGINT NOT NULL,
        ts TEXT NOT NULL,
        event TEXT NOT NULL,
        data TEXT NOT NULL,
        hmac TEXT NOT NULL,
        PRIMARY KEY (run_id, seq)
    );
    CREATE TABLE snapshots (
        id TEXT PRIMARY KEY,
        node TEXT NOT NULL REFERENCES nodes (id),
        tenant TEXT NOT NULL,
        run_id TEXT NOT NULL,
        image TEXT NOT NULL,
        digest TEXT NOT NULL,
        vcpus BIGINT NOT NULL,
        mem_mib BIGINT NOT NULL,
        disk_mib BIGINT NOT NULL,
        timeout_ms BIGINT NOT NULL,
        defaults TEXT NOT NULL,
        network TEXT NOT NULL,
        on_idle TEXT NOT NULL,
        auto_resume BOOLEAN NOT NULL,
        size_bytes BIGINT NOT NULL,
        created_at BIGINT NOT NULL,
        tree TEXT
    );
    CREATE INDEX snapshots_of_tenant ON snapshots (tenant, created_at, id);
    CREATE TABLE pulled_images (
        node TEXT NOT NULL REFERENCES nodes (id),
        digest TEXT NOT NULL,
        tenant TEXT NOT NULL,
        bytes BIGINT NOT NULL,
        PRIMARY KEY (node, digest)
    );
    -- Totals of a tenant's destroyed runs, which are kept when runs are deleted, and the size
    -- of the audit logs of those that were not deleted.
    CREATE TABLE usage (
        tenant TEXT PRIMARY KEY,
        runs BIGINT NOT NULL DEFAULT 0,
        cpu_ms BIGINT NOT NULL DEFAULT 0,
        mem_mib_ms BIGINT NOT NULL DEFAULT 0,
        audit_bytes BIGINT NOT NULL DEFAULT 0
    );
    CREATE FUNCTION count_ended_run() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO usage (tenant, runs, cpu_ms, mem_mib_ms, audit_bytes) VALUES (
            NEW.tenant, 1, NEW.cpu_ms,
            NEW.mem_mib * GREATEST(NEW.destroyed_at - NEW.created_at, 0), NEW.audit_bytes
        ) ON CONFLICT (tenant) DO UPDATE SET
            runs = usage.runs + 1, cpu_ms = usage.cpu_ms + excluded.cpu_ms,
            mem_mib_ms = usage.mem_mib_ms + excluded.mem_mib_ms,
            audit_bytes = usage.audit_bytes + excluded.audit_bytes;
        RETURN NULL;
    END $$;
    CREATE TRIGGER run_ended AFTER UPDATE OF destroyed_at ON runs FOR EACH ROW
        WHEN (OLD.destroyed_at IS NULL AND NEW.destroyed_at IS NOT NULL)
        EXECUTE FUNCTION count_ended_run();
    CREATE FUNCTION forget_ended_run() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM audit WHERE run_id = OLD.id;
        IF OLD.destroyed_at IS NOT NULL THEN
            UPDATE usage SET audit_bytes = GREATEST(audit_bytes - OLD.audit_bytes, 0)
                WHERE tenant = OLD.tenant;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER run_deleted AFTER DELETE ON runs FOR EACH ROW
        EXECUTE FUNCTION forget_ended_run();
    -- Limits hold for all nodes together: whoever adds a run waits for other additions of
    -- the same tenant and to the same node, and then counts. Every addition takes the locks
    -- in the same order.
    CREATE FUNCTION admit_run() RETURNS TRIGGER LANGUAGE plpgsql AS $$
    DECLARE limits RECORD; BEGIN
        SELECT max_tenant_runs, max_sandboxes INTO limits FROM nodes WHERE id = NEW.node;
        PERFORM pg_advisory_xact_lock(hashtextextended('tenant ' || NEW.tenant, 0));
        IF (SELECT COUNT(*) FROM runs WHERE tenant = NEW.tenant AND destroyed_at IS NULL)
            >= limits.max_tenant_runs
        THEN RAISE EXCEPTION 'too many runs of the tenant' USING ERRCODE = 'IR001'; END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('node ' || NEW.node, 0));
        IF (SELECT COUNT(*) FROM runs WHERE node = NEW.node AND destroyed_at IS NULL)
            >= limits.max_sandboxes
        THEN RAISE EXCEPTION 'too many runs of the node' USING ERRCODE = 'IR002'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER run_added BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION admit_run();
    CREATE FUNCTION admit_snapshot() RETURNS TRIGGER LANGUAGE plpgsql AS $$
    DECLARE limits RECORD; BEGIN
        SELECT max_tenant_snapshots INTO limits FROM nodes WHERE id = NEW.node;
        PERFORM pg_advisory_xact_lock(hashtextextended('snapshots ' || NEW.tenant, 0));
        IF (SELECT COUNT(*) FROM snapshots WHERE tenant = NEW.tenant)
            >= limits.max_tenant_snapshots
        THEN RAISE EXCEPTION 'too many snapshots of the tenant' USING ERRCODE = 'IR003'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER snapshot_added BEFORE INSERT ON snapshots FOR EACH ROW
        EXECUTE FUNCTION admit_snapshot();
",
    "
    -- The open runs of each tenant and of each node, so that they need not be counted. Not in
    -- `nodes`: there a renewal of a lease would wait for each of them that is not committed
    -- yet. Every change locks rows of tenants first, then those of nodes, each in their order.
    CREATE TABLE tenant_runs (
        tenant TEXT PRIMARY KEY,
        open BIGINT NOT NULL
    ) WITH (fillfactor = 50);
    CREATE TABLE node_runs (
        node TEXT PRIMARY KEY REFERENCES nodes (id),
        open BIGINT NOT NULL
    ) WITH (fillfactor = 50);
    -- No run is added or changed by older servers until this step is committed.
    LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO tenant_runs (tenant, open)
        SELECT tenant, COUNT(*) FROM runs WHERE destroyed_at IS NULL GROUP BY tenant;
    INSERT INTO node_runs (node, open)
        SELECT node, COUNT(*) FROM runs WHERE destroyed_at IS NULL GROUP BY node;
    -- The function of the trigger `run_added`. What exceeds a limit by the numbers that are
    -- committed is refused without a change. The rest is exact: the rows are locked until the
    -- addition is committed.
    CREATE OR REPLACE FUNCTION admit_run() RETURNS TRIGGER LANGUAGE plpgsql AS $$
    DECLARE limits RECORD; BEGIN
        SELECT max_tenant_runs, max_sandboxes, COALESCE(tenant_runs.open, 0) AS of_tenant,
            COALESCE(node_runs.open, 0) AS of_node INTO limits
        FROM nodes LEFT JOIN node_runs ON node_runs.node = nodes.id
        LEFT JOIN tenant_runs ON tenant_runs.tenant = NEW.tenant WHERE nodes.id = NEW.node;
        IF limits.of_tenant < limits.max_tenant_runs AND limits.of_node < limits.max_sandboxes
        THEN
            INSERT INTO tenant_runs AS counted (tenant, open) VALUES (NEW.tenant, 1)
                ON CONFLICT (tenant) DO UPDATE SET open = counted.open + 1
                WHERE counted.open < limits.max_tenant_runs;
            IF FOUND THEN
                INSERT INTO node_runs AS counted (node, open) VALUES (NEW.node, 1)
                    ON CONFLICT (node) DO UPDATE SET open = counted.open + 1
                    WHERE counted.open < limits.max_sandboxes;
                IF FOUND THEN RETURN NEW; END IF;
                limits.of_node = limits.max_sandboxes;
            ELSE
                limits.of_tenant = limits.max_tenant_runs;
            END IF;
        END IF;
        IF limits.of_tenant >= limits.max_tenant_runs
        THEN RAISE EXCEPTION 'too many runs of the tenant' USING ERRCODE = 'IR001'; END IF;
        RAISE EXCEPTION 'too many runs of the node' USING ERRCODE = 'IR002';
    END $$;
    CREATE FUNCTION uncount_ended_run() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        UPDATE tenant_runs SET open = open - 1 WHERE tenant = OLD.tenant;
        UPDATE node_runs SET open = open - 1 WHERE node = OLD.node;
        RETURN NULL;
    END $$;
    CREATE TRIGGER run_uncounted AFTER UPDATE OF destroyed_at ON runs FOR EACH ROW
        WHEN (OLD.destroyed_at IS NULL AND NEW.destroyed_at IS NOT NULL)
        EXECUTE FUNCTION uncount_ended_run();
    CREATE FUNCTION count_moved_run() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        PERFORM FROM node_runs WHERE node IN (OLD.node, NEW.node) ORDER BY node FOR UPDATE;
        UPDATE node_runs SET open = open - 1 WHERE node = OLD.node;
        INSERT INTO node_runs AS counted (node, open) VALUES (NEW.node, 1)
            ON CONFLICT (node) DO UPDATE SET open = counted.open + 1;
        RETURN NULL;
    END $$;
    CREATE TRIGGER run_moved AFTER UPDATE OF node ON runs FOR EACH ROW
        WHEN (OLD.node <> NEW.node AND OLD.destroyed_at IS NULL AND NEW.destroyed_at IS NULL)
        EXECUTE FUNCTION count_moved_run();
    -- For a statement and not for each row, because runs of several tenants and nodes are
    -- deleted in any order.
    CREATE FUNCTION uncount_deleted_runs() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        PERFORM FROM tenant_runs WHERE tenant IN
            (SELECT tenant FROM deleted WHERE destroyed_at IS NULL) ORDER BY tenant FOR UPDATE;
        PERFORM FROM node_runs WHERE node IN
            (SELECT node FROM deleted WHERE destroyed_at IS NULL) ORDER BY node FOR UPDATE;
        UPDATE tenant_runs SET open = open - runs FROM (
            SELECT tenant, COUNT(*) AS runs FROM deleted WHERE destroyed_at IS NULL GROUP BY tenant
        ) AS ended WHERE tenant_runs.tenant = ended.tenant;
        UPDATE node_runs SET open = open - runs FROM (
            SELECT node, COUNT(*) AS runs FROM deleted WHERE destroyed_at IS NULL GROUP BY node
        ) AS ended WHERE node_runs.node = ended.node;
        RETURN NULL;
    END $$;
    CREATE TRIGGER runs_uncounted AFTER DELETE ON runs REFERENCING OLD TABLE AS deleted
        FOR EACH STATEMENT EXECUTE FUNCTION uncount_deleted_runs();
    -- The last deletion of the history, which one node at a time makes.
    ALTER TABLE cluster ADD COLUMN history_deleted_at TIMESTAMPTZ NOT NULL DEFAULT '-infinity';
    CREATE INDEX snapshots_of_node ON snapshots (node, created_at, id);
    CREATE INDEX snapshots_to_upload ON snapshots (node, created_at) WHERE tree IS NULL;
    -- Without a condition on `status`, which changes when a run is created: a change of a column
    -- of an index is a new entry in each index of the table. A run that was never hibernated has
    -- the generation 0.
    CREATE INDEX runs_to_upload ON runs (node, created_at) WHERE destroyed_at IS NULL
        AND generation > 0 AND tree_generation IS DISTINCT FROM generation;
",
    "
    -- The images that nodes have.
    CREATE TABLE node_images (
        node TEXT NOT NULL REFERENCES nodes (id),
        reference TEXT NOT NULL,
        digest TEXT NOT NULL,
        listed_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        PRIMARY KEY (node, reference)
    );
    CREATE INDEX node_images_by_reference ON node_images (reference);
    CREATE INDEX node_images_by_digest ON node_images (digest);
    -- The images in the object store.
    CREATE TABLE image_copies (
        digest TEXT PRIMARY KEY,
        tree TEXT NOT NULL,
        copied_at TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    -- The last time at which a node began to record the runs of dead nodes as lost.
    ALTER TABLE cluster ADD COLUMN losses_recorded_at TIMESTAMPTZ NOT NULL DEFAULT '-infinity';
    -- News for the nodes: for all of them, or for the one that is named.
    CREATE FUNCTION tell_nodes() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('isorun', '');
        RETURN NULL;
    END $$;
    CREATE TRIGGER node_added AFTER INSERT ON nodes FOR EACH ROW EXECUTE FUNCTION tell_nodes();
    CREATE TRIGGER node_changed AFTER UPDATE OF state ON nodes FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION tell_nodes();
    CREATE FUNCTION tell_old_node() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('isorun', OLD.node);
        RETURN NULL;
    END $$;
    CREATE TRIGGER move_told AFTER UPDATE OF node ON runs FOR EACH ROW
        WHEN (OLD.node <> NEW.node) EXECUTE FUNCTION tell_old_node();
    CREATE INDEX runs_by_digest ON runs (digest) WHERE destroyed_at IS NULL;
    CREATE INDEX snapshots_by_digest ON snapshots (digest);
",
];

/// Creates the schema or migrates it to the current format.
pub async fn migrate(pool: &Pool) -> Result<(), StoreError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let mut client = pool.get().await.map_err(unavailable)?;
    let transaction = client.transaction().await.map_err(error_of)?;
    // Of several nodes that start at the same time only one applies the steps.
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction.execute(lock, &[&MIGRATION_LOCK]).await.map_err(error_of)?;
    transaction
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS isorun;
             CREATE TABLE IF NOT EXISTS isorun.format (version BIGINT NOT NULL)",
        )
        .await
        .map_err(error_of)?;
    let found = transaction.query_opt("SELECT version FROM format", &[]).await.map_err(error_of)?;
    let found: i64 = found.map_or(0, |row| row.get(0));
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    if found < known {
        for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            transaction.batch_execute(step).await.map_err(error_of)?;
        }
        transaction.execute("DELETE FROM format", &[]).await.map_err(error_of)?;
        transaction
            .execute("INSERT INTO format (version) VALUES ($1)", &[&known])
            .await
            .map_err(error_of)?;
    }
    transaction.commit().await.map_err(error_of)
}

#[cfg(test)]
mod tests {
    use test_support::PostgresServer;

    use super::{super::Postgres, *};

    /// Adds runs: of two nodes and three tenants, one of which has ended.
    const RUNS: &str = "
        INSERT INTO nodes SELECT id, 1, 'up', 'https://' || id, now(), now(), '', TRUE, '',
            1, 1, 1, 1, 1, 1, 100, 100, 100 FROM unnest('{node1,node2}'::TEXT[]) AS id;
        INSERT INTO runs (id, node, tenant, image, digest, status, vcpus, mem_mib, disk_mib,
            timeout_ms, defaults, network, on_idle, auto_resume, create_ms, created_at, destroyed_at)
        SELECT id, 'node' || 1 + id % 2, 'tenant' || id % 3, '', '', 'running', 1, 1, 1, 1, '{}',
            '', 'destroy', FALSE, 1, 1, CASE id WHEN 9 THEN 1 END
        FROM generate_series(1, 9) AS id";

    #[tokio::test]
    async fn open_runs_of_the_first_format_are_counted() {
        let server = PostgresServer::shared();
        let url = server.database();
        let psql = |statement: &str| {
            let database = url.rsplit_once('/').unwrap().1;
            server.psql(database, &format!("SET search_path = isorun; {statement}")).unwrap()
        };
        psql(&format!(
            "CREATE SCHEMA isorun; CREATE TABLE format (version BIGINT NOT NULL); {} {RUNS};
             INSERT INTO format VALUES (1)",
            STEPS[0]
        ));
        let database = Postgres::connect(&url.parse().unwrap(), None).await.unwrap();
        let nodes = database.nodes().await.unwrap();
        let runs: Vec<(&str, u64)> = nodes.iter().map(|node| (&*node.id, node.runs)).collect();
        assert_eq!(runs, [("node1", 4), ("node2", 4)]);
        psql("UPDATE runs SET destroyed_at = 1 WHERE id IN ('1', '3')");
        assert_eq!(psql("SELECT * FROM node_runs ORDER BY node"), "node1|4\nnode2|2");
        let tenants = psql("SELECT * FROM tenant_runs ORDER BY tenant");
        assert_eq!(tenants, "tenant0|1\ntenant1|2\ntenant2|3");
    }
}
