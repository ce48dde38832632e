//! `health`: whether all is well, for a HEALTHCHECK. Must never change anything, and answers in two seconds, whatever hangs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::Builder;
use std::time::Duration;

use clap::ArgMatches;

use super::context::{live, with_options_of_the_boot};
use super::{duration, print};
use crate::configured::Configured;
use crate::exit::{self, Failure};
use crate::runtime::left_plan;
use crate::settings::{self, Source};
use crate::status::health::{Limits, judge};
use crate::status::silent::{ANSWER, AT_MOST, Places, UNASKED, without_end};
use crate::{report, running, runtime, status};

type Flags = Vec<(String, String)>;
type Verdict = Result<String, String>;

/// What the command was asked for.
#[derive(Clone, Copy)]
struct Asked {
    lag: Option<Duration>,
    verified_within: Option<Duration>,
}

/// Whether all is well: 0 with a line on stdout, or 1 with one on stderr.
///
/// # Errors
/// 1 where it is not.
pub(super) fn run(matches: &ArgMatches, flags: Flags) -> Result<u8, Failure> {
    let asked = Asked { lag: duration(matches, "max-lag")?, verified_within: duration(matches, "require-verified-within")? };
    let line = in_time(asked, flags).map_err(|why| Failure::new(exit::UNWELL, why))?;
    print(&line);
    Ok(0)
}

/// Looks, and has a thread watch over it: a look that hangs cannot be interrupted. Then that one says why, and ends the process.
fn in_time(asked: Asked, flags: Flags) -> Verdict {
    let said = Arc::new(AtomicBool::new(false));
    let (watched, its) = (Arc::clone(&said), flags.clone());
    // Without a thread it is looked all the same.
    let _ = Builder::new().spawn(move || watch(&watched, its));
    let verdict = look(asked, flags);
    while said.swap(true, Ordering::AcqRel) {
        // The other one has begun to say it.
        std::thread::park();
    }
    verdict
}

fn watch(said: &AtomicBool, flags: Flags) {
    std::thread::sleep(UNASKED);
    let why = silent(flags).unwrap_or_else(|| {
        std::thread::sleep(AT_MOST.saturating_sub(UNASKED));
        without_end()
    });
    if !said.swap(true, Ordering::AcqRel) {
        report::lines(&why);
        std::process::exit(exit::UNWELL.into());
    }
}

fn look(asked: Asked, flags: Flags) -> Verdict {
    let (configured, place) = live(flags);
    let Some(place) = place else {
        return match configured.as_ref().map(|c| &c.settings.source) {
            Ok(Source::Nothing(why)) => Ok(format!("ok: {why}: nothing is replicated")),
            _ => Err("no litestream-entry runs here as a container's entrypoint; ask in its container, as the same user".to_owned()),
        };
    };
    let Some(plan) = left_plan(&place) else {
        // A boot that has left no plan yet looks at the databases' places.
        let places = Arc::new(Places::default());
        if let Ok(configured) = &configured {
            ask_of(&places, configured);
        }
        return Err(format!("starting: {}", places.silent().unwrap_or_else(|| "the configuration is read".to_owned())));
    };
    let limits = Limits { lag: asked.lag.unwrap_or(plan.entry.max_lag), verified_within: asked.verified_within };
    judge(&status::current(&plan), &limits)
}

/// What does not answer; none where everything does.
fn silent(flags: Flags) -> Option<String> {
    let places = Arc::new(Places::default());
    // These are known without a look at any file.
    let set = ["runtime-dir"].map(settings::variable).into_iter().chain(["LITESTREAM_CONFIG".to_owned()]);
    set.filter_map(std::env::var_os).for_each(|path| places.ask(Path::new(&path)));
    let (tell, told) = mpsc::channel();
    let asks = Arc::clone(&places);
    let ask = move || {
        ask_all(&asks, flags);
        let _ = tell.send(());
    };
    let is_known = Builder::new().spawn(ask).is_err() || told.recv_timeout(ANSWER).is_ok();
    let of_configuration = || "a file that the configuration names does not answer: its file system hangs".to_owned();
    places.silent().or_else(|| (!is_known).then(of_configuration))
}

/// Asks all places of the boot that runs here.
fn ask_all(places: &Arc<Places>, flags: Flags) {
    let boots = running::here();
    let configured = Configured::read(with_options_of_the_boot(flags, &boots)).ok();
    if let Some(configured) = &configured {
        ask_of(places, configured);
    }
    let (place, beside) = configured.map(|c| (c.settings.entry.runtime_dir.clone(), c.first_database())).unwrap_or_default();
    let likely: Vec<PathBuf> = runtime::places(place.as_deref(), beside.as_deref(), boots.first().map_or(1, |boot| boot.pid));
    for place in &likely {
        places.ask(place);
    }
    likely.iter().filter_map(|place| left_plan(place)).for_each(|plan| places.ask_of(&plan));
}

/// Asks the places that are configured.
fn ask_of(places: &Arc<Places>, configured: &Configured) {
    if let Some(place) = &configured.settings.entry.runtime_dir {
        places.ask(place);
    }
    match &configured.settings.source {
        Source::Variables(databases) => {
            let directories = databases.iter().filter_map(|d| if d.is_dir { Some(d.path.as_path()) } else { d.path.parent() });
            directories.for_each(|path| places.ask(path));
        }
        Source::File(path) => places.ask(path),
        Source::Nothing(_) => {}
    }
}
