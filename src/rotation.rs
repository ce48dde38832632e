//! Secrets in files (`…_FILE`), read again at each start of a process that has to do with a replica: they may have been rotated. Must never run in
//! PID 1, which a disk that hangs would stop, nor take an unreadable secret for none, nor go to another place than the boot has decided about.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::libc;

use crate::config::Document;
use crate::configured::Configured;
use crate::facilities::Facilities;
use crate::kept::{self, Kept, Older, ours};
use crate::plan::{self, Plan};
use crate::runtime::Handed;
use crate::settings::{Environment, Source, Values, secret_in};
use crate::sys::{self, KEPT};
use crate::{report, runtime};

/// How long the files are waited for, all together: the last sync has not much more.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// A file that has changed may still be being written.
const SETTLED_AFTER: Duration = Duration::from_millis(50);

/// Keeps what the boot has read in this memory of PID 1's. Not where no secret is in a file; nor where the kernel has no such memory, and
/// then that is said.
pub fn keep(configured: &Configured, runtime: &Path, document: &Document, memory: Option<&OwnedFd>) -> bool {
    if configured.from_files.is_empty() {
        return false;
    }
    let own = memory.map_or_else(kept::memory, OwnedFd::try_clone);
    let kept = own.and_then(|memory| of(configured, runtime, document).write(&File::from(memory)));
    if let Err(error) = &kept {
        report::line(format_args!("secrets in files are not read again where they change: memfd_create: {error}"));
    }
    kept.is_ok() && memory.is_some()
}

fn of(configured: &Configured, runtime: &Path, document: &Document) -> Kept {
    Kept {
        options: configured.options.clone(),
        runtime: runtime.to_owned(),
        port: document.address().and_then(|address| address.rsplit_once(':')?.1.parse().ok()).filter(|port| *port > 0),
        values: configured.from_files.clone(),
        env: env_of(configured),
        ..Kept::default()
    }
}

fn env_of(configured: &Configured) -> Vec<(String, String)> {
    configured.settings.secrets.env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// What the boot was configured with, with these secrets.
fn configured(kept: &Kept, values: &Values, own: &[CString]) -> Result<Configured, String> {
    Configured::with_values(own.to_vec(), kept.options.clone(), values).map_err(|failure| failure.message)
}

/// The environment of a helper that is about to start, with what the files have now; `own` is what PID 1 was started with. What Litestream reads
/// from a file is written anew where that has changed. `replicates` is whether it is the Litestream that does.
pub fn renewed(own: Vec<CString>, replicates: bool) -> Vec<CString> {
    let Some(memory) = sys::take_fd(KEPT).ok().map(File::from) else { return own };
    let Some(mut kept) = Kept::read(&memory) else { return own };
    let before = kept.clone();
    let read = Environment::load_with(own.iter().cloned().filter_map(sys::pair), kept.options.clone(), &kept.values);
    let (values, mut wrong) = fresh(read.files(), &kept.values, read_again);
    if values != kept.values {
        match take(&kept, &values, &own) {
            Ok(Taken { env, older }) => {
                let changed = values.iter().filter(|(name, value)| kept.values.get(*name) != Some(value));
                let changed: Vec<String> = changed.map(|(name, _)| format!("{name}_FILE")).collect();
                report::line(format_args!("{}: has changed, and is used from here on", changed.join(", ")));
                kept.older = Some(Older { env: std::mem::replace(&mut kept.env, env), config: older });
                (kept.values, kept.changes) = (values, kept.changes.saturating_add(1));
            }
            Err(why) => wrong.extend(why.lines().map(|why| format!("{why}; what was read before is used"))),
        }
    } else if kept.changes > 0 {
        // PID 1 may have left its own again.
        let _ = take(&kept, &values, &own);
    }
    let Ok(configured) = configured(&kept, &kept.values, &own) else { return own };
    if replicates {
        kept.litestream = kept.changes;
    }
    if wrong != kept.told {
        wrong.iter().for_each(report::line);
        kept.told = wrong;
    }
    if kept != before
        && let Err(error) = kept.write(&memory)
    {
        report::line(format_args!("secrets that have changed cannot be kept: {error}"));
    }
    if !replicates {
        let _ = sys::keep_on_exec(&memory);
        // It is the worker's from here on, under the same number.
        let _ = memory.into_raw_fd();
    }
    configured.helper_environment(&kept.runtime)
}

/// Reads each file, as long as there is time; the last good value of those that cannot be read, and why.
fn fresh(files: &[(String, PathBuf)], last: &Values, from_file: fn(&Path) -> Result<String, String>) -> (Values, Vec<String>) {
    let read = |names: &[(String, PathBuf)]| -> BTreeMap<String, Result<String, String>> {
        let (sender, receiver) = mpsc::channel();
        for (name, path) in names.iter().cloned() {
            let sender = sender.clone();
            // One that hangs ends with us.
            let _ = std::thread::Builder::new().spawn(move || sender.send((name, from_file(&path))));
        }
        drop(sender);
        let by = Instant::now() + READ_WITHIN;
        std::iter::from_fn(|| receiver.recv_timeout(by.saturating_duration_since(Instant::now())).ok()).collect()
    };
    let mut found = read(files);
    let is_other = |found: &BTreeMap<String, Result<String, String>>| {
        found.iter().any(|(name, value)| value.as_ref().is_ok_and(|value| last.get(name) != Some(value)))
    };
    for _ in 0..10 {
        if !is_other(&found) {
            break;
        }
        std::thread::sleep(SETTLED_AFTER);
        let again = read(files);
        if std::mem::replace(&mut found, again.clone()) == again {
            break;
        }
    }
    let (mut values, mut wrong) = (last.clone(), Vec::new());
    for (name, path) in files {
        match found.remove(name).unwrap_or_else(|| Err("it does not answer".to_owned())) {
            Ok(value) => drop(values.insert(name.clone(), value)),
            Err(why) => wrong.push(format!("{name}_FILE: {}: {why}; what was read before is used", path.display())),
        }
    }
    (values, wrong)
}

/// What is no file, as the pipe of `<(…)`, was there to be read once.
fn read_again(path: &Path) -> Result<String, String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("not a file that can be read again".to_owned());
    }
    secret_in(file)
}

/// What is to be known of values that were taken over.
struct Taken {
    /// Litestream's names for the secrets, and what is in them.
    env: Vec<(String, String)>,
    /// The configuration as it was before.
    older: Option<String>,
}

/// Takes over other values where they are only that: what Litestream reads from files is written anew.
fn take(kept: &Kept, values: &Values, own: &[CString]) -> Result<Taken, String> {
    let configured = configured(kept, values, own)?;
    let old = runtime::left_plan(&kept.runtime).ok_or_else(|| format!("{}: there is no plan", kept.runtime.display()))?;
    let secrets = &configured.settings.secrets;
    let io = |error: io::Error| format!("{}: {error}", kept.runtime.display());
    let older = std::fs::read_to_string(&old.config).ok().filter(|_| !old.users_file);
    if !old.users_file && !matches!(configured.settings.source, Source::Nothing(_)) {
        let facilities = Facilities { port: kept.port, no_sockets: old.socket.is_none().then(String::new), ..Facilities::ALL };
        let made = plan::make(&configured.settings, old.litestream.clone(), &kept.runtime, None, &facilities);
        let made = made.map_err(|failure| failure.message)?;
        if (Plan { life: old.life.clone(), ..made.plan }) != old {
            return Err("a secret that has changed names another place for a backup: start the container again for that".to_owned());
        }
        leave(&old, &old.config, &made.document.text()).map_err(io)?;
        leave(&old, &old.config_again(), &made.document.again(old.litestream.format()).text()).map_err(io)?;
    }
    if let Some(google) = &secrets.google {
        leave(&old, &kept.runtime.join(plan::GOOGLE_FILE), google).map_err(io)?;
    }
    Ok(Taken { env: env_of(&configured), older })
}

fn leave(plan: &Plan, path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|there| there == text) { Ok(()) } else { runtime::leave(plan, path, text) }
}

/// A plan with what secrets' files had before their last change.
#[derive(Debug)]
pub struct OlderPlan {
    /// It.
    pub plan: Plan,
    _config: Option<Handed>,
}

/// The same plan with the secrets from before their last change, where there was one. In a directory of databases (0.5), the configuration
/// is what it is now.
pub fn older(plan: &Plan) -> Option<OlderPlan> {
    let Older { env, config } = ours()?.older?;
    let (mut plan, now) = (plan.clone(), std::env::vars_os());
    let other = |name: &OsStr| env.iter().any(|(n, _)| name == n.as_str());
    let rest = now.filter(|(name, _)| !other(name));
    plan.litestream.env = Some(rest.chain(env.iter().map(|(name, value)| (name.into(), value.into()))).collect());
    let config = config.filter(|_| plan.directories.is_empty());
    let written = config.and_then(|text| Handed::apart(&plan, "older.yml", &text).ok());
    if let Some(config) = &written {
        config.path().clone_into(&mut plan.config);
    }
    Some(OlderPlan { plan, _config: written })
}

/// Whether the Litestream that runs has another secret than is in its file.
pub fn is_newer_than_litestream() -> bool {
    ours().is_some_and(|kept| kept.changes != kept.litestream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<(String, PathBuf)> {
        all.iter().map(|name| ((*name).to_owned(), PathBuf::from(format!("/secrets/{name}")))).collect()
    }

    fn values(all: &[(&str, &str)]) -> Values {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_file_that_hangs_or_fails_costs_a_second_and_no_secret() {
        let read: fn(&Path) -> Result<String, String> = |path| match path.to_str() {
            Some("/secrets/HANGS") => loop {
                std::thread::park();
            },
            Some("/secrets/GONE") => Err("No such file".to_owned()),
            _ => Ok("new".to_owned()),
        };
        let last = values(&[("GONE", "old"), ("HANGS", "old"), ("KEY", "old")]);
        let (found, wrong) = fresh(&names(&["GONE", "HANGS", "KEY"]), &last, read);
        assert_eq!(found, values(&[("GONE", "old"), ("HANGS", "old"), ("KEY", "new")]));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong.iter().all(|why| why.contains("what was read before is used") && !why.contains("old")), "{wrong:?}");
    }

    #[test]
    fn a_file_that_is_being_written_is_read_when_it_is_whole() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static READ: AtomicUsize = AtomicUsize::new(0);
        let read: fn(&Path) -> Result<String, String> = |_| Ok("secret".chars().take(READ.fetch_add(2, Ordering::Relaxed) + 2).collect());
        assert_eq!(fresh(&names(&["KEY"]), &values(&[("KEY", "old")]), read).0, values(&[("KEY", "secret")]));
    }
}
