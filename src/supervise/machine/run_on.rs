//! Workers that run beside the app, and are started again where they die. Must never know more of one than its rhythm.

use super::{Action, Actions, Machine, Now, Phase, Role};
use crate::protocol::{Job, Rhythm};

/// Which begin with the app.
pub(super) fn with_the_app(rhythm: Rhythm) -> bool {
    matches!(rhythm, Rhythm::WithTheApp { .. })
}

/// Which begin with the boot.
pub(super) fn from_the_boot(rhythm: Rhythm) -> bool {
    matches!(rhythm, Rhythm::FromTheBoot { .. })
}

impl Machine {
    fn is_wanted(&self, job: Job) -> bool {
        match job {
            Job::Watch => self.rules.watches,
            Job::Serve => self.rules.serves,
            _ => true,
        }
    }

    fn which(&self, rhythm: fn(Rhythm) -> bool) -> impl Iterator<Item = Job> {
        Job::ALL.into_iter().filter(move |job| rhythm(job.rhythm()) && self.is_wanted(*job))
    }

    /// Those that begin now.
    pub(super) fn run_on(&self, rhythm: fn(Rhythm) -> bool) -> Actions {
        self.which(rhythm).map(Action::Work).collect()
    }

    /// When one that has ended is started again.
    pub(super) fn runs_again(&self, job: Job, now: Now) -> Option<(Job, Now)> {
        match job.rhythm() {
            Rhythm::OnDemand => None,
            Rhythm::WithTheApp { again } => (self.phase == Phase::Run).then(|| (job, now.saturating_add(again))),
            Rhythm::FromTheBoot { again } => Some((job, now.saturating_add(again))),
        }
    }

    /// When the next is started again.
    pub(super) fn next_again(&self) -> Option<Now> {
        self.again.iter().map(|(_, at)| *at).min()
    }

    pub(super) fn tick_again(&mut self, now: Now) -> Actions {
        self.again.extract_if(.., |(_, at)| *at <= now).map(|(job, _)| Action::Work(job)).collect()
    }

    /// The app has ended: what runs with it ends, too.
    pub(super) fn end_those_with_the_app(&mut self) -> Actions {
        self.again.clear();
        self.which(with_the_app).map(|job| Action::Kill(Role::Work(job))).collect()
    }
}
