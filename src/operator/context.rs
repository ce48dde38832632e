//! What a command works with: the plan of the PID 1 that runs here, or one made from the environment. Must never run as root what another
//! user's plan says.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use crate::configured::Configured;
use crate::exit::{self, Failure};
use crate::facilities::Facilities;
use crate::plan::{self, Database, PLAN_FILE, Plan};
use crate::running::{self, Running};
use crate::runtime::{Runtime, left_plan};
use crate::{identity, litestream, sys, tenants};

/// A plan to work with, and our own runtime directory where no PID 1 has left one.
pub(super) struct Context {
    pub(super) plan: Plan,
    /// Made for a replica's URL alone.
    pub(super) of_url: bool,
    _own: Option<Own>,
}

impl Drop for Context {
    fn drop(&mut self) {
        tenants::forget(&self.plan);
    }
}

/// Our own runtime directory: what is in it goes with us.
pub(super) struct Own(Runtime);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.empty();
    }
}

/// The plan of the PID 1 that runs here, or one made from this environment; in directories with what is there, and what is
/// named.
pub(super) fn context(flags: Vec<(String, String)>, named: &[PathBuf]) -> Result<Context, Failure> {
    context_with(flags, &|_| named.to_vec())
}

pub(super) fn context_with(flags: Vec<(String, String)>, named: &dyn Fn(&Plan) -> Vec<PathBuf>) -> Result<Context, Failure> {
    let expanded = |plan: Plan| {
        let named = named(&plan);
        tenants::expand(plan, &named)
    };
    let (configured, live) = live(flags);
    if let Some(place) = &live
        && !may_be_forged(place)
        && let Some(mut plan) = left_plan(place)
    {
        // It has what was configured; the secrets are in the environment that `docker exec` gives, or in their files.
        let env = configured.map_or_else(|_| sys::raw_environment(), |c| c.helper_environment(place));
        plan.litestream.env = Some(env.into_iter().filter_map(sys::pair).collect());
        return Ok(Context { plan: expanded(plan), of_url: false, _own: None });
    }
    let configured = configured?;
    let (plan, own) = match &live {
        Some(place) => (made_again(&configured, place)?, None),
        None => own_plan(&configured).map(|(plan, own)| (plan, Some(own)))?,
    };
    Ok(Context { plan: expanded(plan), of_url: false, _own: own })
}

/// Whether root would run what another user's plan says, whose container this is.
fn may_be_forged(place: &Path) -> bool {
    identity::is_roots() && std::fs::symlink_metadata(place.join(PLAN_FILE)).is_ok_and(|about| about.uid() != 0)
}

/// The same plan by what is configured here.
fn made_again(configured: &Configured, place: &Path) -> Result<Plan, Failure> {
    let litestream = litestream::find(configured.settings.litestream.as_deref())?;
    let mut plan = plan::make(&configured.settings, litestream, place, configured.users_file()?.as_deref(), &Facilities::ALL)?.plan;
    plan.litestream.env = Some(configured.helper_environment(place).into_iter().filter_map(sys::pair).collect());
    Ok(plan)
}

/// What is configured for the boot that runs here, and the runtime directory that it holds.
pub(super) fn live(flags: Vec<(String, String)>) -> (Result<Configured, Failure>, Option<PathBuf>) {
    let found = find_live(flags);
    if let Some(plan) = found.1.as_deref().and_then(left_plan) {
        identity::become_who_may_read(plan.entry.user.as_deref(), &plan.runtime);
    }
    found
}

fn find_live(flags: Vec<(String, String)>) -> (Result<Configured, Failure>, Option<PathBuf>) {
    let boots = running::here();
    for boot in &boots {
        let configured = Configured::read(boot.options.iter().chain(&flags).cloned().collect());
        if let Some(place) = boot.place(configured.as_ref().ok()) {
            return (configured, Some(place));
        }
    }
    let configured = Configured::read(with_options_of_the_boot(flags, &boots));
    // One that cannot be seen (hidepid) is likely PID 1.
    let place = running::held(configured.as_ref().ok(), 1);
    (configured, place)
}

/// A plan for what `variables` say, whatever is configured here; the keys are those of the environment.
pub(super) fn context_of_url(mut flags: Vec<(String, String)>, variables: Vec<(String, String)>) -> Result<Context, Failure> {
    flags = with_options_of_the_boot(flags, &running::here());
    flags.extend(variables);
    let (plan, own) = own_plan(&Configured::read_without_file(flags)?)?;
    Ok(Context { plan, of_url: true, _own: Some(own) })
}

/// A plan of our own, where there is none to work with, in a runtime directory of our own.
fn own_plan(configured: &Configured) -> Result<(Plan, Own), Failure> {
    let (planned, runtime) = configured.plan(None, std::process::id(), &|_| {})?;
    let mut plan = planned.plan;
    plan.litestream.env = Some(configured.helper_environment(&runtime.path).into_iter().filter_map(sys::pair).collect());
    Ok((plan, Own(runtime)))
}

/// What is configured here, with the options of the boot that runs here.
///
/// # Errors
/// 78 with a line per problem.
pub(super) fn configured(flags: Vec<(String, String)>) -> Result<Configured, Failure> {
    Configured::read(with_options_of_the_boot(flags, &running::here()))
}

/// Options before the app hold for `docker exec`, too, which knows only the environment.
pub(super) fn with_options_of_the_boot(flags: Vec<(String, String)>, boots: &[Running]) -> Vec<(String, String)> {
    boots.first().into_iter().flat_map(|boot| boot.options.clone()).chain(flags).collect()
}

/// Databases that are named by path: one in a directory may be missing here.
pub(super) fn paths(matches: &ArgMatches) -> Vec<PathBuf> {
    let names = matches.get_many::<String>("db").into_iter().flatten();
    names.filter(|name| name.contains('/')).filter_map(|name| std::path::absolute(name).ok()).collect()
}

/// The databases that the command line names.
pub(super) fn chosen(plan: &Plan, matches: &ArgMatches) -> Result<Vec<Database>, Failure> {
    if matches.get_flag("all") {
        return Ok(plan.databases.clone());
    }
    let names: Vec<&String> = matches.get_many("db").into_iter().flatten().collect();
    if names.is_empty() {
        return Err(Failure::new(exit::USAGE, "no database named; name one (`default`, a path) or --all"));
    }
    names.into_iter().map(|name| plan.find(name).cloned()).collect()
}
