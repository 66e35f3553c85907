//! What clients often do, at several places in turns.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    servers::{Client, Shell},
    table::{Samples, print_row, print_throughput},
};

/// The time in which the pool of created sandboxes is filled again.
const POOL_REFILL_TIME: Duration = Duration::from_secs(2);
const MIB: usize = 1 << 20;

/// Prints all rows. Clients with the same key may use the same sandboxes.
pub async fn measure<const N: usize>(clients: &[Client; N]) {
    lifecycle(clients).await;
    commands(clients).await;
    interpreters(clients).await;
    files(clients).await;
}

/// Takes samples at each place in turns, after a round that does not count.
async fn sample<const N: usize, const ROWS: usize>(
    clients: &[Client; N],
    rounds: usize,
    mut operation: impl AsyncFnMut(usize, &Client) -> [Duration; ROWS],
) -> [Samples<N>; ROWS] {
    let mut samples = [const { Samples::new() }; ROWS];
    // The last two places use the same node. In every second round the order is reversed, and
    // another place is between them, so that each as often follows the other.
    let mut order: [usize; N] = std::array::from_fn(|place| place);
    order.swap(0, 1);
    for round in 0..=rounds {
        for place in order {
            let times = operation(place, &clients[place]).await;
            if round > 0 {
                samples.iter_mut().zip(times).for_each(|(samples, time)| samples.add(place, time));
            }
        }
        order.reverse();
    }
    samples
}

/// Measures an operation without a result.
async fn time(operation: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    operation.await;
    start.elapsed()
}

async fn lifecycle<const N: usize>(clients: &[Client; N]) {
    let samples = sample(clients, 25, async |_, client| {
        tokio::time::sleep(POOL_REFILL_TIME).await;
        let start = Instant::now();
        let run = client.create(json!({})).await;
        [start.elapsed(), time(client.destroy(&run)).await]
    });
    let [create, destroy] = samples.await;
    print_row("create a Linux sandbox, from the pool", &create);
    print_row("destroy it", &destroy);
}

async fn commands<const N: usize>(clients: &[Client; N]) {
    let runs = create_at_each(clients, "host").await;
    let samples =
        sample(clients, 200, async |place, client| [time(client.exec(&runs[place], "true")).await]);
    let [exec] = samples.await;
    print_row("exec of `true`", &exec);
    let mut shells = Vec::new();
    for (client, run) in clients.iter().zip(&runs) {
        shells.push(Shell::open(client, run).await);
    }
    let [shell] =
        sample(clients, 300, async |place, _| [time(shells[place].run("true")).await]).await;
    print_row("`true` in a shell session", &shell);
    drop(shells);
    destroy_each(clients, &runs).await;
}

async fn interpreters<const N: usize>(clients: &[Client; N]) {
    let runs = create_at_each(clients, "isola:python").await;
    let [cell] =
        sample(clients, 300, async |place, client| [time(client.run_code(&runs[place])).await])
            .await;
    print_row("`run_code` of `1 + 1` in `isola:python`", &cell);
    destroy_each(clients, &runs).await;
    let samples = sample(clients, 200, async |_, client| {
        [time(async {
            let run = client.create(json!({ "image": "isola:python" })).await;
            client.run_code(&run).await;
            client.destroy(&run).await;
        })
        .await]
    });
    let [lifecycle] = samples.await;
    print_row("create `isola:python`, `run_code`, destroy it", &lifecycle);
}

async fn files<const N: usize>(clients: &[Client; N]) {
    let runs = create_at_each(clients, "host").await;
    for (size, rounds) in [(MIB, 100), (100 * MIB, 9)] {
        for (client, run) in clients.iter().zip(&runs) {
            client.upload(run, "/tmp/file", vec![7; size]).await;
        }
        let samples = sample(clients, rounds, async |place, client| {
            let start = Instant::now();
            assert_eq!(client.download(&runs[place], "/tmp/file").await, size);
            [start.elapsed()]
        });
        let [download] = samples.await;
        if size == MIB {
            print_row("download a file of 1 MiB", &download);
        } else {
            print_throughput("throughput of a file of 100 MiB", &download, size);
        }
    }
    destroy_each(clients, &runs).await;
}

/// Creates a sandbox for each place.
async fn create_at_each<const N: usize>(clients: &[Client; N], image: &str) -> Vec<String> {
    let mut runs = Vec::new();
    for client in clients {
        runs.push(client.create(json!({ "image": image })).await);
    }
    runs
}

async fn destroy_each(clients: &[Client], runs: &[String]) {
    for (client, run) in clients.iter().zip(runs) {
        client.destroy(run).await;
    }
}
