//! The work loads. Each runs a server of its own in a place of its own, and says in its plan's `name`
//! what was done and in `goals` what is wanted of it.

pub mod shared;
mod traffic;

pub mod criterion;
pub mod cycle;
pub mod drain;
pub mod page;
pub mod read;
pub mod sessions;
pub mod slow;
pub mod storm;
pub mod watch;

use super::{
    figures::{Goal, Outcome},
    place::{Bench, StoreKind},
};

/// A work load with its sizes.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Live sessions that nobody watches.
    Sessions(sessions::SessionsPlan),
    /// Sessions that are watched.
    Watch(watch::WatchPlan),
    /// Start and stop.
    Cycle(cycle::CyclePlan),
    /// Live balances over HTTP.
    Read(read::ReadPlan),
    /// Watchers of whom some never read.
    Slow(slow::SlowPlan),
    /// All watchers come back at once.
    Storm(storm::StormPlan),
    /// SIGTERM.
    Drain(drain::DrainPlan),
    /// The dashboard in a browser.
    Page(page::PagePlan),
    /// The micro-benchmarks.
    Criterion(criterion::CriterionPlan),
}

impl Plan {
    /// Which work load it is.
    pub const fn workload(&self) -> &'static str {
        match self {
            Self::Sessions(_) => "sessions",
            Self::Watch(_) => "watch",
            Self::Cycle(_) => "cycle",
            Self::Read(_) => "read",
            Self::Slow(_) => "slow",
            Self::Storm(_) => "storm",
            Self::Drain(_) => "drain",
            Self::Page(_) => "page",
            Self::Criterion(_) => "criterion",
        }
    }

    /// What tells it from others of its work load.
    pub fn name(&self) -> String {
        match self {
            Self::Sessions(plan) => plan.name(),
            Self::Watch(plan) => plan.name(),
            Self::Cycle(plan) => plan.name(),
            Self::Read(plan) => plan.name(),
            Self::Slow(plan) => plan.name(),
            Self::Storm(plan) => plan.name(),
            Self::Drain(plan) => plan.name(),
            Self::Page(plan) => plan.name(),
            Self::Criterion(plan) => plan.name(),
        }
    }

    /// Whether one run of it is many runs already, so that it is done once only.
    pub const fn is_repeated_by_itself(&self) -> bool {
        matches!(self, Self::Criterion(_))
    }

    /// Where the server keeps its data; nothing for what needs no server.
    pub const fn store(&self) -> Option<StoreKind> {
        match self {
            Self::Sessions(plan) => Some(plan.store),
            Self::Watch(plan) => Some(plan.store),
            Self::Cycle(plan) => Some(plan.store),
            Self::Read(plan) => Some(plan.store),
            Self::Slow(plan) => Some(plan.store),
            Self::Storm(plan) => Some(plan.store),
            Self::Drain(plan) => Some(plan.store),
            Self::Page(plan) => Some(plan.store),
            Self::Criterion(_) => None,
        }
    }

    /// What is wanted of its figures.
    pub fn goals(&self) -> Vec<Goal> {
        match self {
            Self::Sessions(plan) => plan.goals(),
            Self::Watch(plan) => plan.goals(),
            Self::Cycle(plan) => plan.goals(),
            Self::Read(_) => read::ReadPlan::goals(),
            Self::Slow(_) => slow::SlowPlan::goals(),
            Self::Drain(_) => drain::DrainPlan::goals(),
            Self::Page(_) => page::PagePlan::goals(),
            // Storms and micro-benchmarks are told for comparison.
            Self::Storm(_) | Self::Criterion(_) => Vec::new(),
        }
    }

    /// Does it once.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        match self {
            Self::Sessions(plan) => plan.run(bench),
            Self::Watch(plan) => plan.run(bench),
            Self::Cycle(plan) => plan.run(bench),
            Self::Read(plan) => plan.run(bench),
            Self::Slow(plan) => plan.run(bench),
            Self::Storm(plan) => plan.run(bench),
            Self::Drain(plan) => plan.run(bench),
            Self::Page(plan) => plan.run(bench),
            Self::Criterion(plan) => plan.run(),
        }
    }
}
