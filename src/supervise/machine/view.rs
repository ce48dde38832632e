//! What the machine tells those who ask. Must never change it.

use super::replicator::Replicator;
use super::{AppState, Machine, Migration, Phase};
use crate::state::{self, Replication, View};

impl Machine {
    /// Whether the end has begun.
    pub fn ends(&self) -> bool {
        self.stop_by.is_some()
    }

    /// How things stand.
    pub fn view(&self) -> View {
        let phase = match self.phase {
            Phase::Boot | Phase::Leave { .. } => state::Phase::Starting,
            Phase::Run if self.stops > 0 || self.app == AppState::Gone => state::Phase::Stopping,
            Phase::Run if matches!(self.migration, Migration::Runs | Migration::Ends { .. }) => state::Phase::Migrating,
            Phase::Run => state::Phase::Running,
            Phase::Drain { .. } | Phase::Sync | Phase::Close | Phase::End => state::Phase::Stopping,
        };
        let replication = match self.replicator {
            _ if self.rules.job => Replication::Job,
            Replicator::Off => Replication::Off,
            Replicator::Standby(_) => Replication::Standby,
            Replicator::Up => Replication::Up,
            Replicator::Backoff(_) => Replication::Down,
            Replicator::Preparing | Replicator::Probing | Replicator::Starting | Replicator::Reopening(_) => {
                if self.backoff.is_zero() {
                    Replication::Starting
                } else {
                    Replication::Down
                }
            }
        };
        View { phase, replication, restarts: self.restarts, unproven: self.unproven }
    }
}
