//! The figures of PostgreSQL itself: what its statistics say about statements and commits.

use std::{sync::Arc, time::Duration};

use test_support::PostgresServer;

use crate::row;

/// The statements that are listed, by their beginnings or a part of them; the first that matches.
const KINDS: [(&str, &str); 16] = [
    ("renew a lease", "UPDATE nodes SET lease_until"),
    ("read the nodes", "SELECT nodes.*"),
    ("count the runs of nodes", "FROM unnest($1::TEXT[])"),
    ("declare nodes dead", "UPDATE nodes SET state"),
    ("delete unfinished runs", "DELETE FROM runs USING nodes"),
    ("find lost runs", "LEFT JOIN LATERAL"),
    ("end a lost run", "WITH ended AS"),
    ("read the node's runs", "SELECT * FROM runs WHERE node"),
    ("size of the audit logs", "SUM(bytes)"),
    ("size of the snapshots", "SUM(size_bytes)"),
    ("pulled images", "FROM pulled_images"),
    ("look for uploads", "UNION ALL SELECT id, tenant"),
    ("add a run", "INSERT INTO runs"),
    ("end a run", "destroyed_at = $5"),
    ("set running", "create_ms = $5"),
    ("audit log", "INSERT INTO audit"),
];

/// The statistics of a database.
pub struct Statements {
    server: Arc<PostgresServer>,
    pub url: String,
    name: String,
}

impl Statements {
    pub fn of_new_database(server: &Arc<PostgresServer>) -> Self {
        let url = server.database();
        let name = url.rsplit_once('/').unwrap().1.to_owned();
        let statements = Self { server: Arc::clone(server), url, name };
        statements.query("CREATE EXTENSION pg_stat_statements");
        statements
    }

    /// Runs a statement of `psql`.
    pub fn query(&self, statement: &str) -> String {
        self.server.psql(&self.name, statement).unwrap()
    }

    pub fn reset(&self) {
        self.query("SELECT pg_stat_statements_reset()");
    }

    /// Prints what the database has done since the last reset, for a number of creates.
    pub fn print(&self, duration: Duration, creates: usize) {
        let text = self.query(
            "SELECT calls, rows, total_exec_time, regexp_replace(query, '\\s+', ' ', 'g')
             FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
             WHERE datname = current_database() AND query NOT LIKE '%pg_stat%'",
        );
        let mut kinds = vec![(0.0, 0.0, 0.0); KINDS.len() + 1];
        for line in text.lines() {
            let fields: Vec<&str> = line.splitn(4, '|').collect();
            let [calls, rows, millis, query] = fields[..] else { panic!("{line}") };
            let kind = KINDS.iter().position(|(_, part)| query.contains(part));
            let entry = &mut kinds[kind.unwrap_or(KINDS.len())];
            let number = |text: &str| text.parse::<f64>().unwrap();
            *entry = (entry.0 + number(calls), entry.1 + number(rows), entry.2 + number(millis));
        }
        let seconds = duration.as_secs_f64();
        let all: (f64, f64) = kinds.iter().fold((0.0, 0.0), |sum, k| (sum.0 + k.0, sum.1 + k.2));
        row(
            "statements, and their time",
            &format!(
                "{:.0} each second, {:.2} s each second; {:.1} for a create",
                all.0 / seconds,
                all.1 / 1000.0 / seconds,
                all.0 / creates.max(1) as f64
            ),
        );
        let names = KINDS.iter().map(|(name, _)| *name).chain(["others, such as keys"]);
        for (name, (calls, rows, millis)) in names.zip(kinds) {
            if calls > 0.0 {
                row(
                    &format!("  {name}"),
                    &format!(
                        "{:>7.1} each second, {:>8.3} ms, {:>6.1} rows",
                        calls / seconds,
                        millis / calls,
                        rows / calls
                    ),
                );
            }
        }
    }
}
