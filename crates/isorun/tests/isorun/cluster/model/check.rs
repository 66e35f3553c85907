//! Compares the cluster with the model, after everything was healed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;
use test_support::process::command_lines_with;
use tokio::time::sleep;

use super::{
    ledger::{Content, Expected, Kind, ModelRun, ModelSnapshot},
    nodes::{Fleet, NODES},
    operations::Client,
};

/// The time within which everything that was interrupted has to be completed.
const QUIET_TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// A run as the database has it.
#[derive(Clone, Debug)]
struct Row {
    node: String,
    tenant: String,
    status: String,
    image: String,
    is_open: bool,
    reason: String,
    is_uploaded: bool,
    is_resuming: bool,
}

fn rows(fleet: &Fleet) -> BTreeMap<String, Row> {
    let text = fleet.query(
        "SELECT id, node, tenant, status, image, destroyed_at IS NULL,
             tree_generation IS NOT DISTINCT FROM generation, resuming, COALESCE(reason, '')
         FROM isorun.runs",
    );
    let read = |line: &str| {
        let fields: Vec<&str> = line.splitn(9, '|').collect();
        let row = Row {
            node: fields[1].to_owned(),
            tenant: fields[2].to_owned(),
            status: fields[3].to_owned(),
            image: fields[4].to_owned(),
            is_open: fields[5] == "t",
            is_uploaded: fields[6] == "t",
            is_resuming: fields[7] == "t",
            reason: fields[8].to_owned(),
        };
        (fields[0].to_owned(), row)
    };
    text.lines().map(read).collect()
}

/// A snapshot as the database has it.
struct StoredSnapshot {
    node: String,
    tenant: String,
    image: String,
    is_uploaded: bool,
}

fn snapshots(fleet: &Fleet) -> BTreeMap<String, StoredSnapshot> {
    let text =
        fleet.query("SELECT id, node, tenant, image, tree IS NOT NULL FROM isorun.snapshots");
    let read = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let snapshot = StoredSnapshot {
            node: fields[1].to_owned(),
            tenant: fields[2].to_owned(),
            image: fields[3].to_owned(),
            is_uploaded: fields[4] == "t",
        };
        (fields[0].to_owned(), snapshot)
    };
    text.lines().map(read).collect()
}

/// Waits until nothing is in progress and nothing is left that belongs to no run or snapshot.
/// Returns what still is not so at the end.
pub async fn wait_until_quiet(fleet: &Fleet, clients: &[Client]) -> Vec<String> {
    let deadline = Instant::now() + QUIET_TIMEOUT;
    loop {
        let problems = problems(fleet, clients).await;
        if problems.is_empty() || Instant::now() > deadline {
            return problems;
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn problems(fleet: &Fleet, clients: &[Client]) -> Vec<String> {
    let mut problems = Vec::new();
    let up =
        fleet.query("SELECT COUNT(*) FROM isorun.nodes WHERE state = 'up' AND lease_until > now()");
    if up != NODES.to_string() {
        problems.push(format!("{up} nodes are up"));
    }
    let (rows, snapshots) = (rows(fleet), snapshots(fleet));
    for (id, row) in rows.iter().filter(|(_, row)| row.is_open) {
        match row.status.as_str() {
            "creating" => problems.push(format!("{id} is being created at {}", row.node)),
            "hibernated" if !row.is_uploaded => problems.push(format!("{id} is not uploaded")),
            "hibernated" if row.is_resuming => problems.push(format!("{id} is being resumed")),
            _ => {}
        }
    }
    for (id, _) in snapshots.iter().filter(|(_, snapshot)| !snapshot.is_uploaded) {
        problems.push(format!("snapshot {id} is not uploaded"));
    }
    for node in &fleet.nodes {
        problems.extend(directory_problems(node.id(), node.data(), &rows, &snapshots));
    }
    problems.extend(process_problems(fleet, &rows));
    for client in clients {
        problems.extend(count_problems(fleet, client, &rows).await);
    }
    problems
}

/// Compares the directories of checkpoints with the rows.
fn directory_problems(
    node: &str,
    data: Option<std::path::PathBuf>,
    rows: &BTreeMap<String, Row>,
    snapshots: &BTreeMap<String, StoredSnapshot>,
) -> Vec<String> {
    let Some(data) = data else { return vec![format!("node {node} is not running")] };
    let names = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(data.join("state").join(directory)).into_iter().flatten();
        entries.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let mut problems = Vec::new();
    for directory in ["drafts", "hibernating"] {
        for name in names(directory) {
            problems.push(format!("node {node} has {directory}/{name}"));
        }
    }
    for id in names("hibernated") {
        let row = rows.get(&id);
        if !row.is_some_and(|row| row.is_open && row.node == node && row.status == "hibernated") {
            problems.push(format!("node {node} has hibernated/{id}, which is {row:?}"));
        }
    }
    let here = names("snapshots");
    for id in &here {
        if snapshots.get(id).is_none_or(|snapshot| snapshot.node != node) {
            problems.push(format!("node {node} has snapshots/{id} without a row"));
        }
    }
    for (id, _) in snapshots.iter().filter(|(_, snapshot)| snapshot.node == node) {
        if !here.contains(id) {
            problems.push(format!("node {node} has no files of the snapshot {id}"));
        }
    }
    problems
}

/// Compares the Linux sandboxes and their processes with the rows.
fn process_problems(fleet: &Fleet, rows: &BTreeMap<String, Row>) -> Vec<String> {
    let mut problems = Vec::new();
    for node in &fleet.nodes {
        let Some(data) = node.data() else { continue };
        let is_here = |row: &Row| {
            row.is_open && row.status == "running" && row.image == "host" && row.node == node.id()
        };
        let mut missing: BTreeSet<&str> =
            rows.iter().filter(|(_, row)| is_here(row)).map(|(id, _)| id.as_str()).collect();
        let containers = fs::read_dir(data.join("engine/containers")).into_iter().flatten();
        for container in containers.flatten() {
            // One that was created in advance has no record.
            let record = fs::read_to_string(container.path().join("record.json"));
            let Ok(record) = record else { continue };
            let Some((id, row)) = rows.iter().find(|(id, _)| record.contains(id.as_str())) else {
                problems.push(format!("node {} has a sandbox without a row", node.id()));
                continue;
            };
            let has_processes = !command_lines_with(container.path().to_str().unwrap()).is_empty();
            if !missing.remove(id.as_str()) || !has_processes {
                problems.push(format!(
                    "{id} is at {}, with processes: {has_processes}; and is {row:?}",
                    node.id()
                ));
            }
        }
        for id in missing {
            problems.push(format!("{id} has no sandbox at {}", node.id()));
        }
    }
    problems
}

/// Compares the numbers of sandboxes that the nodes count with the rows.
async fn count_problems(
    fleet: &Fleet,
    client: &Client,
    rows: &BTreeMap<String, Row>,
) -> Vec<String> {
    let open = rows.values().filter(|row| row.is_open && row.tenant == client.tenant).count();
    let mut problems = Vec::new();
    for at in 0..NODES {
        let request = fleet.client(at, &client.key).request(reqwest::Method::GET, "/v1/usage");
        let usage: Option<Value> = match request.send().await {
            Ok(response) => response.json().await.ok(),
            Err(_) => None,
        };
        match usage.as_ref().and_then(|usage| usage["active_sandboxes"].as_u64()) {
            Some(counted) if counted == open as u64 => {}
            counted => problems.push(format!(
                "node {at} counts {counted:?} sandboxes of {}, which has {open}",
                client.tenant
            )),
        }
    }
    problems
}

/// Compares everything of the clients with the model, and reads its content. Returns what is
/// wrong.
pub async fn compare(
    fleet: &Fleet,
    clients: &mut [Client],
    victims: &BTreeSet<usize>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let (rows, stored) = (rows(fleet), snapshots(fleet));
    let lost_nodes: BTreeSet<&str> = victims.iter().map(|at| fleet.nodes[*at].id()).collect();
    for client in &mut *clients {
        wrong.append(&mut client.ledger.violations);
        for run in &client.ledger.destroyed {
            if rows.get(&run.id).is_none_or(|row| row.is_open) {
                wrong.push(format!("{} was destroyed, and is not", run.id));
            }
        }
        for id in &client.ledger.deleted {
            if stored.contains_key(id) {
                wrong.push(format!("the snapshot {id} was deleted, and is not"));
            }
        }
        let mut kept = Vec::new();
        for mut run in std::mem::take(&mut client.ledger.runs) {
            match judge(&run, rows.get(&run.id), &lost_nodes) {
                Ok(true) => {
                    let is_hibernated = rows[&run.id].status == "hibernated";
                    run.expected =
                        if is_hibernated { Expected::Hibernated } else { Expected::Running };
                    kept.push(run);
                }
                Ok(false) => client.ledger.destroyed.push(run),
                Err(why) => wrong.push(format!("{} {why}", run.id)),
            }
        }
        client.ledger.runs = kept;
        let snapshots = std::mem::take(&mut client.ledger.snapshots);
        for snapshot in snapshots {
            match stored.contains_key(&snapshot.id) {
                true => client
                    .ledger
                    .snapshots
                    .push(ModelSnapshot { may_be_deleted: false, ..snapshot }),
                false if snapshot.may_be_deleted => {}
                false => wrong.push(format!("the snapshot {} is lost", snapshot.id)),
            }
        }
    }
    wrong.extend(adopt_unknown(clients, &rows, &stored));
    for client in clients {
        wrong.extend(read_all(client).await);
    }
    wrong
}

/// Compares a run with its row. Returns whether it is open.
fn judge(run: &ModelRun, row: Option<&Row>, lost_nodes: &BTreeSet<&str>) -> Result<bool, String> {
    let Some(row) = row else { return Err("has no row".to_owned()) };
    if row.is_open {
        if let Some(denied) = &run.denied {
            return Err(format!("is there, and an answer denied that: {denied}"));
        }
        let is_right = match row.status.as_str() {
            "running" => run.expected != Expected::Hibernated || run.is_unsettled,
            "hibernated" => run.expected != Expected::Running || run.is_unsettled,
            _ => false,
        };
        return if is_right { Ok(true) } else { Err(format!("is expected as {run:?}: {row:?}")) };
    }
    if row.reason == "a request destroyed it" {
        let may_be = run.may_be_destroyed;
        return if may_be { Ok(false) } else { Err("was destroyed without a request".to_owned()) };
    }
    // Only a sandbox that was running can be lost, and only with its node.
    let may_be_lost = run.expected != Expected::Hibernated || run.is_unsettled;
    if may_be_lost && lost_nodes.contains(row.node.as_str()) {
        return Ok(false);
    }
    Err(format!("is lost: {row:?}, {run:?}"))
}

/// Adds the runs and snapshots whose creation was not answered. There may be as many as there
/// were such requests.
fn adopt_unknown(
    clients: &mut [Client],
    rows: &BTreeMap<String, Row>,
    stored: &BTreeMap<String, StoredSnapshot>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let kind_of = |image: &str| if image == "host" { Kind::Linux } else { Kind::Python };
    for client in clients {
        let ledger = &mut client.ledger;
        let known: BTreeSet<String> =
            ledger.runs.iter().chain(&ledger.destroyed).map(|run| run.id.clone()).collect();
        let is_unknown = |(id, row): &(&String, &Row)| {
            row.is_open && row.tenant == client.tenant && !known.contains(*id)
        };
        let unknown: Vec<_> = rows.iter().filter(is_unknown).collect();
        if unknown.len() > ledger.uncertain_runs {
            wrong.push(format!("there are runs that nothing has created: {unknown:?}"));
        }
        for (id, row) in unknown {
            if row.status != "running" {
                wrong.push(format!("{id}, which no client knows, is {row:?}"));
            }
            client.trace.add(&format!("found {id}, whose creation was not answered"));
            let kind = kind_of(&row.image);
            ledger.runs.push(ModelRun::new(id.clone(), kind, Content::unknown()));
        }
        ledger.uncertain_runs = 0;
        let known: BTreeSet<String> =
            ledger.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
        let is_unknown = |(id, snapshot): &(&String, &StoredSnapshot)| {
            snapshot.tenant == client.tenant && !known.contains(*id)
        };
        let unknown: Vec<_> = stored.iter().filter(is_unknown).collect();
        if unknown.len() > ledger.uncertain_snapshots {
            let ids: Vec<_> = unknown.iter().map(|(id, _)| id).collect();
            wrong.push(format!("there are snapshots that nothing has taken: {ids:?}"));
        }
        for (id, snapshot) in unknown {
            ledger.snapshots.push(ModelSnapshot {
                id: id.clone(),
                kind: kind_of(&snapshot.image),
                content: Content::unknown(),
                may_be_deleted: false,
            });
        }
        ledger.uncertain_snapshots = 0;
    }
    wrong
}

/// Reads the content of all runs and snapshots, and the audit logs. All runs are running
/// afterwards.
pub async fn read_all(client: &mut Client) -> Vec<String> {
    let mut wrong = Vec::new();
    for at in 0..client.ledger.runs.len() {
        let run = &mut client.ledger.runs[at];
        let id = run.id.clone();
        (run.is_unsettled, run.may_be_destroyed, run.denied) = (false, false, None);
        if run.expected != Expected::Running && !client.resume(at, 1).await {
            wrong.push(format!("{id} cannot be resumed"));
        } else if !client.read(at).await {
            wrong.push(format!("{id} cannot be read"));
        }
    }
    for at in 0..client.ledger.snapshots.len() {
        let id = client.ledger.snapshots[at].id.clone();
        if !client.restore_snapshot(at).await {
            wrong.push(format!("the snapshot {id} cannot be restored"));
            continue;
        }
        let last = client.ledger.runs.len() - 1;
        if !client.read(last).await || !client.destroy(last).await {
            wrong.push(format!("a copy of the snapshot {id} cannot be used"));
        }
    }
    let runs = client.ledger.runs.iter().chain(&client.ledger.destroyed);
    for run in runs.cloned().collect::<Vec<_>>() {
        let has_ended = client.ledger.destroyed.iter().any(|ended| ended.id == run.id);
        let checked = match client.events(&run.id).await {
            Ok(log) => run.events.check(&log).and(check_end(&log, has_ended)),
            Err(error) => Err(format!("its audit log cannot be read: {error}")),
        };
        if let Err(why) = checked {
            wrong.push(format!("{}: {why}", run.id));
        }
    }
    wrong.append(&mut client.ledger.violations);
    client.ledger.uncertain_runs = 0;
    wrong
}

/// Fails unless the log of a run that has ended, and of no other, ends with that.
fn check_end(log: &[String], has_ended: bool) -> Result<(), String> {
    let is_end = |event: &String| ["sandbox.destroyed", "sandbox.lost"].contains(&event.as_str());
    let ends = log.iter().filter(|event| is_end(event)).count();
    match log.last().is_some_and(is_end) == has_ended && ends == usize::from(has_ended) {
        true => Ok(()),
        false => Err(format!("its audit log has {ends} ends: {log:?}")),
    }
}
