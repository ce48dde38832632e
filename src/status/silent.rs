//! What does not answer: places on file systems that hang. Must never wait for one for long, nor ask one again that has not answered yet:
//! who asks cannot be interrupted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

use crate::plan::Plan;

/// How long a look may take before it is asked what does not answer.
pub const UNASKED: Duration = Duration::from_millis(1200);
/// How long a place may take to answer: with the look before it, two seconds.
pub const ANSWER: Duration = Duration::from_millis(500);
/// How long a look may take where all places answer: one at many databases, on a machine with other things to do.
pub const AT_MOST: Duration = Duration::from_secs(10);
/// So many places are asked.
const MOST: usize = 16;
/// A question needs little.
const STACK: usize = 64 * 1024;

/// Places, and which of them have not answered.
#[derive(Debug, Default)]
pub struct Places {
    asked: Mutex<Vec<Asked>>,
    answered: Condvar,
}

#[derive(Debug)]
struct Asked {
    path: PathBuf,
    since: Instant,
}

impl Places {
    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a place whether it is there.
    pub fn ask(self: &Arc<Self>, path: &Path) {
        let mut asked = self.asked();
        if asked.len() >= MOST || asked.iter().any(|it| it.path == path) {
            return;
        }
        let (places, its) = (Arc::clone(self), path.to_owned());
        let ask = move || {
            // Of what is there and what is not, only that it was told counts. What `stat` says may have been known already.
            let _ = (std::fs::metadata(&its).is_ok(), statvfs(&its).is_ok());
            places.asked().retain(|it| it.path != its);
            places.answered.notify_all();
        };
        if std::thread::Builder::new().stack_size(STACK).spawn(ask).is_ok() {
            asked.push(Asked { path: path.to_owned(), since: Instant::now() });
        }
    }

    /// Asks all that a boot with this plan stands on but its replicas.
    pub fn ask_of(self: &Arc<Self>, plan: &Plan) {
        self.ask(&plan.runtime);
        let databases = plan.databases.iter().filter_map(|database| database.path.parent());
        databases.chain(plan.directories.iter().map(|directory| directory.path.as_path())).for_each(|path| self.ask(path));
    }

    /// Which do not answer, in a sentence; none where all that were asked do.
    pub fn silent(&self) -> Option<String> {
        let mut asked = self.asked();
        while let Some(left) = asked.iter().filter_map(|it| ANSWER.checked_sub(it.since.elapsed())).filter(|left| !left.is_zero()).max() {
            asked = self.answered.wait_timeout(asked, left).map_or_else(|error| error.into_inner().0, |(asked, _)| asked);
        }
        let mut paths: Vec<String> = asked.iter().map(|it| it.path.display().to_string()).collect();
        paths.sort();
        let (last, others) = paths.split_last()?;
        Some(match others {
            [] => format!("{last} does not answer: its file system hangs"),
            others => format!("{} and {last} do not answer: their file systems hang", others.join(", ")),
        })
    }
}

/// What is said of a look that does not come to an end though all places answer.
pub fn without_end() -> String {
    format!("how things stand could not be seen in {} s: a disk hangs, or the machine is overloaded", AT_MOST.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_answer_are_not_silent_whether_they_are_there_or_not() {
        let places = Arc::new(Places::default());
        for path in ["/", "/tmp", "/not/there", "/"] {
            places.ask(Path::new(path));
        }
        assert_eq!(places.silent(), None);
    }

    #[test]
    fn those_that_have_not_answered_are_named() {
        let places = Places::default();
        let since = Instant::now().checked_sub(ANSWER).unwrap();
        let hung = |path: &str| Asked { path: path.into(), since };
        places.asked().push(hung("/data"));
        assert_eq!(places.silent().unwrap(), "/data does not answer: its file system hangs");
        places.asked().push(hung("/a"));
        assert_eq!(places.silent().unwrap(), "/a and /data do not answer: their file systems hang");
    }
}
