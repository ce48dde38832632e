//! The runtime directory, which a start script or a cleaner may wipe (`rm -rf /tmp/*`): PID 1 has all that was in it, and leaves it anew.
//! Must never write where another boot or another user has come instead.

use std::io;
use std::time::Duration;

use super::{Boot, Shell};
use crate::plan::{CONFIG_FILE, GOOGLE_FILE, PLAN_FILE};
use crate::state::STATE_FILE;
use crate::worker::CONTROL_FILE;
use crate::{report, runtime};

/// Between two looks while nothing is started.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The workers have their plan.
    plan: bool,
    /// When it was looked at.
    looked: Duration,
}

impl Boot {
    /// Whether all is where it was left.
    fn has_all(&self, plan_left: bool, listens: bool) -> bool {
        let (Some(plan), Some(taken)) = (&self.plan, &self.runtime) else { return true };
        let own = [(CONFIG_FILE, !plan.users_file), (GOOGLE_FILE, self.google.is_some()), (PLAN_FILE, plan_left), (CONTROL_FILE, listens)];
        let again = plan.config_again();
        let mut names = own.into_iter().filter(|(_, left)| *left).map(|(name, _)| plan.runtime.join(name));
        taken.is_there() && names.all(|path| path.exists()) && (plan.users_file || !plan_left || again.exists())
    }
}

impl Shell {
    /// Once, when Litestream has been started: it does not wait for what it does not read.
    pub(super) fn leave_plan(&mut self) -> bool {
        if !self.place.plan {
            let (Some(plan), Some(document)) = (&self.boot.plan, &self.boot.document) else { return true };
            self.place.plan = crate::leave_plan(plan, document).map_err(|failure| report::lines(&failure.message)).is_ok();
            self.boot.share();
        }
        self.place.plan
    }

    /// Looks now and then, for those who ask how things stand.
    pub(super) fn look_at_place(&mut self) {
        if self.now().saturating_sub(self.place.looked) >= LOOK_EVERY {
            self.has_place();
        }
    }

    /// Whether what is read from the runtime directory is there, if need be anew.
    pub(super) fn has_place(&mut self) -> bool {
        self.place.looked = self.now();
        let Some(runtime) = self.boot.plan.as_ref().map(|plan| plan.runtime.clone()) else { return true };
        if self.boot.has_all(self.place.plan, self.control.is_some()) {
            self.stale |= !runtime.join(STATE_FILE).exists();
            return true;
        }
        if let Err(error) = self.make_place() {
            report::news(format_args!("{}: was wiped, and cannot be made again: {error}", runtime.display()));
            return false;
        }
        report::news(format_args!(
            "{}: was wiped while this runs: what was in it is there again; keep it out of what is tidied up",
            runtime.display()
        ));
        true
    }

    fn make_place(&mut self) -> io::Result<()> {
        self.boot.runtime.as_mut().map_or(Ok(()), runtime::Runtime::take_again)?;
        let (Some(plan), Some(document)) = (&self.boot.plan, &self.boot.document) else { return Ok(()) };
        let left = crate::leave_configuration(plan, document, self.boot.google.as_deref());
        left.map_err(|failure| io::Error::other(failure.message))?;
        if std::mem::take(&mut self.place.plan) && !self.leave_plan() {
            return Err(io::Error::other("see above"));
        }
        self.boot.share();
        if self.control.take().is_some() {
            self.listen();
        }
        self.stale = true;
        Ok(())
    }
}
