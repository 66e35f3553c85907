//! Divides CPU time between tenants.
//!
//! The kernel divides it between sandboxes by their weights. With equal weights, a
//! tenant with ten busy sandboxes would get ten times as much as a tenant with one.
//! The sandboxes of a tenant therefore share the weight of one, each in proportion
//! to the CPU time that it has used in the last second.

use std::collections::HashMap;

use isorun_engine::{CpuWeight, SandboxId};

/// One sandbox at one moment.
#[derive(Clone, Debug)]
pub struct Measured {
    pub sandbox: SandboxId,
    pub tenant: String,
    /// CPU time since its creation, in milliseconds.
    pub cpu_ms: u64,
}

/// The weight of each sandbox, and its CPU time when the weight was computed.
#[derive(Debug, Default)]
pub struct CpuWeights {
    last: HashMap<SandboxId, (u64, CpuWeight)>,
}

impl CpuWeights {
    /// Returns the weights that change.
    pub fn update(&mut self, measured: &[Measured]) -> Vec<(SandboxId, CpuWeight)> {
        let used = |sandbox: &Measured| {
            let before = self.last.get(&sandbox.sandbox).map_or(0, |(cpu_ms, _)| *cpu_ms);
            sandbox.cpu_ms.saturating_sub(before)
        };
        let mut tenants: HashMap<&str, (u64, u64)> = HashMap::new();
        for sandbox in measured {
            let (all, count) = tenants.entry(&sandbox.tenant).or_default();
            *all = all.saturating_add(used(sandbox));
            *count += 1;
        }
        let mut last = HashMap::with_capacity(measured.len());
        let mut changes = Vec::new();
        for sandbox in measured {
            let (all, count) = tenants[sandbox.tenant.as_str()];
            let full = u64::from(CpuWeight::FULL.thousandths());
            let by_use = used(sandbox).saturating_mul(full).checked_div(all).unwrap_or_default();
            // An idle sandbox also gets a weight, for when it becomes busy.
            let mut weight = CpuWeight::of_thousandths(by_use.max(full / count));
            let before = self.last.get(&sandbox.sandbox).map(|(_, weight)| *weight);
            match before {
                Some(before) if is_close(before, weight) => weight = before,
                // The weight of a sandbox of an earlier server process is unknown.
                _ => changes.push((sandbox.sandbox.clone(), weight)),
            }
            last.insert(sandbox.sandbox.clone(), (sandbox.cpu_ms, weight));
        }
        self.last = last;
        changes
    }
}

/// Reports whether two weights differ by less than a fifth.
fn is_close(one: CpuWeight, other: CpuWeight) -> bool {
    let (one, other) = (one.thousandths(), other.thousandths());
    one.abs_diff(other) * 5 < one.max(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(sandbox: &str, cpu_ms: u64) -> Measured {
        Measured { sandbox: sandbox.parse().unwrap(), tenant: sandbox[..1].to_owned(), cpu_ms }
    }

    fn update(weights: &mut CpuWeights, used: &[(&str, u64)]) -> Vec<(String, u32)> {
        let measured: Vec<_> = used.iter().map(|(id, cpu_ms)| measured(id, *cpu_ms)).collect();
        let changes = weights.update(&measured);
        changes.into_iter().map(|(id, weight)| (id.to_string(), weight.thousandths())).collect()
    }

    fn expected(list: &[(&str, u32)]) -> Vec<(String, u32)> {
        list.iter().map(|(id, weight)| ((*id).to_owned(), *weight)).collect()
    }

    #[test]
    fn sandboxes_of_a_tenant_share_one_weight() {
        let mut weights = CpuWeights::default();
        let idle = [("a1", 0), ("a2", 0), ("a3", 0), ("b1", 0)];
        let changes = update(&mut weights, &idle);
        assert_eq!(changes, expected(&[("a1", 333), ("a2", 333), ("a3", 333), ("b1", 1000)]));
        // A busy sandbox is distinguished from idle ones, even if it gets little time.
        let one_busy = [("a1", 20), ("a2", 1), ("a3", 1), ("b1", 900)];
        assert_eq!(update(&mut weights, &one_busy), expected(&[("a1", 909)]));
        let two_busy = [("a1", 70), ("a2", 51), ("a3", 1), ("b1", 1900)];
        assert_eq!(update(&mut weights, &two_busy), expected(&[("a1", 500), ("a2", 500)]));
        // Small changes are not applied.
        let about_the_same = [("a1", 125), ("a2", 101), ("a3", 2), ("b1", 1901)];
        assert_eq!(update(&mut weights, &about_the_same), expected(&[]));
        // A sandbox that has ended is removed, and a new one gets a weight.
        let changes = update(&mut weights, &[("a1", 130), ("c1", 900)]);
        assert_eq!(changes, expected(&[("a1", 1000), ("c1", 1000)]));
        assert_eq!(weights.last.len(), 2);
    }
}
