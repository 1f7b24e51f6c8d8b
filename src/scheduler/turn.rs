//! Whose turn it is: by priority, then fairly among tenants, then by arrival.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with tokens as the cost, as the virtual token counters of
//! Sheng et al. ("Fairness in Serving Large Language Models", OSDI 2024) count it. A sequence starts, in virtual time, where
//! its tenant's sequences before it end, but not before now: so a tenant with a long queue waits behind itself, and one that
//! was idle is next. Output lengths are guessed when a sequence is added and settled when it has gone. With one tenant the
//! order is that of arrival.

use std::collections::HashMap;

use super::NewSequence;

/// A tenant of weight 1 is this much virtual time older for each token.
const PER_TOKEN: u64 = 1 << 10;
/// Output that is charged in advance, unless `max_tokens` is less.
const EXPECTED_OUTPUT: u32 = 256;
/// Tenants remembered although they have no sequence, before those that owe nothing are forgotten.
const MAX_IDLE: usize = 1024;

/// The place of a sequence in both queues; the least is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: i64,
    /// In virtual time.
    start: u64,
    arrival: u64,
}

/// A tenant's standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tenant {
    /// Where its work ends in virtual time.
    end: u64,
    weight: u32,
    /// Its sequences.
    pub(super) live: usize,
    /// Of these, the ones that run.
    pub(super) running: usize,
}

/// Virtual time and the tenants.
#[derive(Debug, Default)]
pub(super) struct Turns {
    now: u64,
    pub(super) tenants: HashMap<u64, Tenant>,
    /// Of tenants that have sequences.
    total_weight: u64,
    num_added: u64,
}

impl Turns {
    /// The turn of a new sequence, and the tokens charged for it.
    pub(super) fn take(&mut self, new: &NewSequence) -> (Turn, u64) {
        self.num_added += 1;
        let charged = new.prompt.len() as u64 + u64::from(new.params.max_tokens.min(EXPECTED_OUTPUT));
        let now = self.now;
        if self.tenants.len() > MAX_IDLE {
            self.tenants.retain(|_, tenant| tenant.live > 0 || tenant.end > now);
        }
        let tenant = self.tenants.entry(new.claim.tenant).or_default();
        if tenant.live == 0 {
            tenant.weight = new.claim.weight.max(1);
            self.total_weight += u64::from(tenant.weight);
        }
        tenant.live += 1;
        let start = tenant.end.max(now);
        tenant.end = start.saturating_add(cost(charged, tenant.weight));
        (Turn { priority: new.claim.priority, start, arrival: self.num_added }, charged)
    }

    /// A sequence was admitted: nobody starts before it any more.
    pub(super) fn admitted(&mut self, tenant: u64, turn: Turn) {
        self.now = self.now.max(turn.start);
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.running += 1;
        }
    }

    /// A sequence no longer runs.
    pub(super) fn stopped(&mut self, tenant: u64) {
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.running -= 1;
        }
    }

    /// A sequence that was charged for `charged` tokens has gone after `used`.
    pub(super) fn settle(&mut self, tenant: u64, charged: u64, used: u64) {
        let Some(tenant) = self.tenants.get_mut(&tenant) else { return };
        let (more, less) = (used.saturating_sub(charged), charged.saturating_sub(used));
        tenant.end = tenant.end.saturating_add(cost(more, tenant.weight)).saturating_sub(cost(less, tenant.weight));
        tenant.live -= 1;
        if tenant.live == 0 {
            self.total_weight -= u64::from(tenant.weight);
        }
    }

    /// How many of its tenant's sequences run beyond the tenant's share of `seats`; negative when there are fewer.
    pub(super) fn surplus(&self, tenant: u64, seats: usize) -> i64 {
        let Some(tenant) = self.tenants.get(&tenant) else { return 0 };
        let share = seats as u64 * u64::from(tenant.weight) / self.total_weight.max(1);
        tenant.running as i64 - share.max(1) as i64
    }

    /// Tenants that have sequences.
    pub(super) fn num_active(&self) -> usize {
        self.tenants.values().filter(|tenant| tenant.live > 0).count()
    }
}

fn cost(tokens: u64, weight: u32) -> u64 {
    tokens.saturating_mul(PER_TOKEN) / u64::from(weight.max(1))
}
