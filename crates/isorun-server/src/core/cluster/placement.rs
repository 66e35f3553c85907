//! The choice of a node for a new run: the best of a few that are drawn at random. It needs
//! no agreement between nodes, and does not send a burst of runs to the one node that looked
//! best to all of them. The runs of the few are read again before they are compared.

use std::collections::HashMap;

use crate::store::NodeRow;

/// The number of nodes that are asked to create a run.
pub const MAX_CREATE_ATTEMPTS: usize = 3;
/// The memory that a new sandbox is expected to use soon, in bytes: less than its limit, since
/// most sandboxes use little of it.
const EXPECTED_BYTES: u64 = 128 << 20;
/// How much better another node has to be than this one, which needs no forwarding; of a
/// thousand.
const FORWARDING_COST: u64 = 100;
/// How much better another node has to be than one that has the image; of a thousand. Copying
/// an image takes longer than anything else.
const IMAGE_COST: u64 = 1000;

/// The number of nodes that are compared for a new run, of each kind: those that have its image,
/// and others.
pub const CANDIDATES: usize = 3;

/// What a run needs of its node.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The interpreter; `None` for a Linux sandbox.
    pub interpreter: Option<&'a str>,
    /// The memory of the sandbox, in bytes.
    pub mem_bytes: u64,
    /// The nodes that have its image.
    pub image_nodes: &'a [String],
}

/// What is known of the nodes of a cluster.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub nodes: &'a [NodeRow],
    /// The open runs of some nodes, where they are known better than in `nodes`.
    pub runs: &'a HashMap<String, u64>,
    /// The node that chooses.
    pub own: &'a str,
}

/// Draws the nodes that are compared for a new run, among those that are not excluded: up to
/// `count` that have its image, and others. `random` returns a number below its argument.
///
/// The node that chooses is one of them only if it is drawn. Otherwise it would have more than its
/// part of the runs, and small nodes be used more than large ones.
pub fn draw<'a>(
    known: Known<'a>,
    count: usize,
    needs: &Needs<'_>,
    excluded: &[String],
    mut random: impl FnMut(usize) -> usize,
) -> Vec<&'a str> {
    let usable = known.nodes.iter().filter(|node| !excluded.contains(&node.id));
    let usable = usable.filter_map(|node| compared(known, node, needs));
    let (with_image, others) = usable.partition(|candidate| candidate.has_image);
    let mut candidates = Vec::new();
    // Both kinds are compared, so that a few nodes with the image are not filled up.
    for drawn_from in [with_image, others] {
        draw_some(drawn_from, count, &mut candidates, &mut random);
    }
    candidates.into_iter().map(|candidate| &*candidate.node.id).collect()
}

/// Returns the best of the nodes that were drawn; `None` if none of them can have the run.
pub fn best_of<'a>(
    known: Known<'a>,
    drawn: &[impl AsRef<str>],
    needs: &Needs<'_>,
) -> Option<&'a NodeRow> {
    // In the order in which they were drawn, so that of equal ones each is as likely.
    let candidates =
        drawn.iter().filter_map(|id| known.nodes.iter().find(|node| node.id == id.as_ref()));
    let best = candidates.filter_map(|node| compared(known, node, needs)).max_by_key(|candidate| {
        let own_bonus = if candidate.node.id == known.own { FORWARDING_COST } else { 0 };
        let image_bonus = if candidate.has_image { IMAGE_COST } else { 0 };
        score(candidate, needs) + own_bonus + image_bonus
    });
    Some(best?.node)
}

/// Returns what a node is compared by; `None` if it cannot have the run.
fn compared<'a>(
    known: Known<'a>,
    node: &'a NodeRow,
    needs: &Needs<'_>,
) -> Option<ComparedNode<'a>> {
    let has_engine = match needs.interpreter {
        None => node.report.has_linux,
        Some(image) => node.report.interpreters.iter().any(|offered| offered == image),
    };
    if !node.is_alive || node.is_draining || !has_engine {
        return None;
    }
    let runs = known.runs.get(&node.id).copied().unwrap_or(node.runs);
    let free_runs = node.report.max_sandboxes.checked_sub(runs).filter(|free| *free > 0)?;
    let has_image = needs.image_nodes.contains(&node.id);
    Some(ComparedNode { node, pending: runs.saturating_sub(node.runs), free_runs, has_image })
}

/// A node that could be chosen.
struct ComparedNode<'a> {
    node: &'a NodeRow,
    /// The runs that it has more than when it reported.
    pending: u64,
    /// The runs that it can still have.
    free_runs: u64,
    has_image: bool,
}

/// Moves up to `count` nodes to `candidates`. Each run that a node can still have is drawn with
/// the same probability. Otherwise small nodes would be compared, and chosen, as often as large
/// ones.
fn draw_some<'a>(
    mut nodes: Vec<ComparedNode<'a>>,
    count: usize,
    candidates: &mut Vec<ComparedNode<'a>>,
    random: &mut impl FnMut(usize) -> usize,
) {
    let mut all_free: u64 = nodes.iter().map(|node| node.free_runs).sum();
    for _ in 0..count.min(nodes.len()) {
        let mut drawn = random(usize::try_from(all_free).unwrap_or(usize::MAX)) as u64;
        let at = nodes.iter().position(|node| {
            let is_drawn = drawn < node.free_runs;
            drawn = drawn.saturating_sub(node.free_runs);
            is_drawn
        });
        let candidate = nodes.swap_remove(at.unwrap_or(0));
        all_free -= candidate.free_runs;
        candidates.push(candidate);
    }
}

/// Returns how suitable a node is, from 0 to 5000: its free memory and idle CPUs, whether it has
/// sandboxes that were created in advance, and how far it is from its limit.
fn score(candidate: &ComparedNode<'_>, needs: &Needs<'_>) -> u64 {
    let ComparedNode { node, pending, free_runs, .. } = *candidate;
    let report = &node.report;
    let expected = EXPECTED_BYTES.min(needs.mem_bytes);
    let free = report.mem_free_bytes.saturating_sub(expected.saturating_mul(pending + 1));
    let memory = permille(free, report.mem_bytes);
    let busy = report.busy_cpus_permille.saturating_add(pending.saturating_mul(500));
    let cpu = 1000_u64.saturating_sub(busy / report.cpus.max(1));
    let pool = if report.pooled > 0 { 1000 } else { 0 };
    // The number of runs is current, while the load average is that of the last minute, and
    // memory is that of the last report. A pool is filled again in less time than that.
    let limit = permille(free_runs, report.max_sandboxes);
    memory * 3 / 2 + cpu + pool / 2 + limit * 2
}

fn permille(part: u64, whole: u64) -> u64 {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    u64::try_from(permille).unwrap_or(1000).min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NodeReport;

    const GIB: u64 = 1 << 30;

    fn node(id: &str, free_gib: u64) -> NodeRow {
        NodeRow {
            id: id.to_owned(),
            is_alive: true,
            is_draining: false,
            runs: 0,
            report: NodeReport {
                has_linux: true,
                interpreters: vec!["isola:python".to_owned()],
                cpus: 4,
                mem_bytes: 32 * GIB,
                mem_free_bytes: free_gib * GIB,
                max_sandboxes: 100,
                ..NodeReport::default()
            },
        }
    }

    const LINUX: Needs<'static> = Needs { interpreter: None, mem_bytes: GIB, image_nodes: &[] };

    /// Chooses with these numbers of runs.
    fn choose_by<'a>(
        nodes: &'a [NodeRow],
        own: &'a str,
        needs: &Needs<'_>,
        excluded: &[String],
        runs: &'a HashMap<String, u64>,
        random: impl FnMut(usize) -> usize,
    ) -> Option<&'a NodeRow> {
        let known = Known { nodes, runs, own };
        best_of(known, &draw(known, CANDIDATES, needs, excluded, random), needs)
    }

    fn chosen(nodes: &[NodeRow], needs: &Needs<'_>, runs: &[(String, u64)]) -> Option<String> {
        let runs = runs.iter().cloned().collect();
        choose_by(nodes, "node1", needs, &[], &runs, |_| 0).map(|node| node.id.clone())
    }

    #[test]
    fn this_node_is_chosen_unless_another_is_clearly_better() {
        let nodes = [node("node1", 20), node("node2", 21), node("node3", 20)];
        assert_eq!(chosen(&nodes, &LINUX, &[]).as_deref(), Some("node1"));
        let nodes = [node("node1", 4), node("node2", 30), node("node3", 20)];
        assert_eq!(chosen(&nodes, &LINUX, &[]).as_deref(), Some("node2"));
        let busy = [("node2".to_owned(), 90), ("node1".to_owned(), 20)];
        assert_eq!(chosen(&nodes, &LINUX, &busy).as_deref(), Some("node3"));
    }

    #[test]
    fn only_nodes_that_can_run_it_are_chosen() {
        let mut nodes = [node("node1", 30), node("node2", 1), node("node3", 20)];
        nodes[0].is_draining = true;
        nodes[2].is_alive = false;
        assert_eq!(chosen(&nodes, &LINUX, &[]).as_deref(), Some("node2"));
        nodes[1].report.has_linux = false;
        assert_eq!(chosen(&nodes, &LINUX, &[]), None);
        let python = Needs { interpreter: Some("isola:python"), ..LINUX };
        assert_eq!(chosen(&nodes, &python, &[]).as_deref(), Some("node2"));
        let other = Needs { interpreter: Some("isola:js"), ..LINUX };
        assert_eq!(chosen(&nodes, &other, &[]), None);
        nodes[1].runs = 60;
        assert_eq!(chosen(&nodes, &python, &[("node2".to_owned(), 100)]), None);
        nodes[0].is_draining = false;
        let excluded = ["node1".to_owned(), "node2".to_owned()];
        let none = HashMap::new();
        assert!(choose_by(&nodes, "node1", &python, &excluded, &none, |_| 0).is_none());
    }

    #[test]
    fn a_node_that_was_filled_after_it_was_drawn_is_not_chosen() {
        let nodes = [node("node1", 20), node("node2", 30)];
        let known = |runs| Known { nodes: &nodes, runs, own: "node1" };
        let none = HashMap::new();
        let drawn = draw(known(&none), CANDIDATES, &LINUX, &[], |_| 0);
        assert_eq!(drawn, ["node1", "node2"]);
        let runs = HashMap::from([("node2".to_owned(), 100)]);
        assert_eq!(best_of(known(&runs), &drawn, &LINUX).unwrap().id, "node1");
        let runs = HashMap::from([("node1".to_owned(), 100), ("node2".to_owned(), 100)]);
        assert!(best_of(known(&runs), &drawn, &LINUX).is_none());
    }

    /// Nodes of different sizes are used to the same part of their limits.
    #[test]
    fn large_nodes_get_more_than_small_ones() {
        let mut nodes: Vec<_> = (0..20).map(|at| node(&format!("node{at}"), 24)).collect();
        for node in &mut nodes[10..] {
            node.report.max_sandboxes = 10;
        }
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % below as u64) as usize
        };
        // More than a tenth of them would fill the small nodes.
        for at in 0..660 {
            let own = format!("node{}", at % 20);
            let none = HashMap::new();
            let best = choose_by(&nodes, &own, &LINUX, &[], &none, &mut random).unwrap();
            let best = best.id.clone();
            nodes.iter_mut().find(|node| node.id == best).unwrap().runs += 1;
        }
        for node in &nodes {
            let percent = 100 * node.runs / node.report.max_sandboxes;
            assert!((40..=80).contains(&percent), "{}: {percent} %", node.id);
        }
    }

    #[test]
    fn a_node_with_the_image_is_preferred_until_it_is_busy() {
        let nodes: Vec<_> = (1..=9).map(|at| node(&format!("node{at}"), 20)).collect();
        let image_nodes = ["node7".to_owned()];
        let needs = Needs { image_nodes: &image_nodes, ..LINUX };
        assert_eq!(chosen(&nodes, &needs, &[]).as_deref(), Some("node7"));
        let busy = [("node7".to_owned(), 40)];
        assert_eq!(chosen(&nodes, &needs, &busy).as_deref(), Some("node1"));
        // This node, if it has the image.
        let both = ["node7".to_owned(), "node1".to_owned()];
        let needs = Needs { image_nodes: &both, ..LINUX };
        assert_eq!(chosen(&nodes, &needs, &[]).as_deref(), Some("node1"));
    }

    /// A burst that one node places from one report is spread.
    #[test]
    fn a_burst_is_spread_over_equal_nodes() {
        let nodes: Vec<_> = (0..10).map(|at| node(&format!("node{at}"), 24)).collect();
        let mut placed: HashMap<String, u64> = HashMap::new();
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % below as u64) as usize
        };
        for _ in 0..500 {
            let best = choose_by(&nodes, "node1", &LINUX, &[], &placed, &mut random).unwrap();
            *placed.entry(best.id.clone()).or_default() += 1;
        }
        assert_eq!(placed.len(), 10);
        for (id, count) in &placed {
            // This node gets some more, since it needs no forwarding.
            let most = if id == "node1" { 90 } else { 65 };
            assert!((35..=most).contains(count), "{placed:?}");
        }
    }
}
