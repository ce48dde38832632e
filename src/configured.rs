//! What the environment says, and the plan that is made of it and left in the runtime directory. Must never look at a database.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use crate::coded::Coded;
use crate::config::Document;
use crate::exit::{self, Failure};
use crate::facilities::Facilities;
use crate::plan::{self, Plan, Planned};
use crate::runtime::{self, Runtime};
use crate::settings::{self, Environment, Settings, Source, Values};
use crate::{litestream, paths, report, sys};

/// What the environment says, before anything is looked at.
#[derive(Debug)]
pub struct Configured {
    /// The settings.
    pub settings: Settings,
    /// The environment, byte for byte.
    pub env: Vec<CString>,
    /// Options, as the variables that they stand for.
    pub options: Vec<(String, String)>,
    /// The secrets that were in files.
    pub from_files: Values,
}

impl Configured {
    /// Reads the environment.
    ///
    /// # Errors
    /// 78 with a line per problem.
    pub fn read(flags: Vec<(String, String)>) -> Result<Self, Failure> {
        Self::read_with(flags, &|path| path.is_file())
    }

    /// The same as if there were no configuration file.
    ///
    /// # Errors
    /// 78 with a line per problem.
    pub fn read_without_file(flags: Vec<(String, String)>) -> Result<Self, Failure> {
        Self::read_with(flags, &|_| false)
    }

    fn read_with(options: Vec<(String, String)>, exists: &dyn Fn(&Path) -> bool) -> Result<Self, Failure> {
        let env = Environment::load(std::env::vars_os(), options.clone());
        Self::of(&env, sys::raw_environment(), options, exists)
    }

    /// What this environment says, whatever secrets are in their files: these are.
    ///
    /// # Errors
    /// 78 with a line per problem.
    pub fn with_values(env: Vec<CString>, options: Vec<(String, String)>, values: &Values) -> Result<Self, Failure> {
        let read = Environment::load_with(env.iter().cloned().filter_map(sys::pair), options.clone(), values);
        Self::of(&read, env, options, &|path| path.is_file())
    }

    fn of(read: &Environment, env: Vec<CString>, options: Vec<(String, String)>, exists: &dyn Fn(&Path) -> bool) -> Result<Self, Failure> {
        let settings = settings::read(read, exists)?;
        report::set_debug(settings.entry.debug);
        let from_files = read.files().iter().filter_map(|(name, _)| Some((name.clone(), read.get(name)?.to_owned()))).collect();
        Ok(Self { settings, env, options, from_files })
    }

    /// Litestream's and the workers' environment, in the boot that has this runtime directory.
    pub fn helper_environment(&self, runtime: &Path) -> Vec<CString> {
        let google = self.settings.secrets.google.as_ref().map(|_| runtime.join(plan::GOOGLE_FILE));
        plan::litestream_environment(&self.env, &self.settings.secrets, google.as_deref())
    }

    /// Where a runtime directory may be as a last resort.
    pub fn first_database(&self) -> Option<PathBuf> {
        match &self.settings.source {
            Source::Variables(databases) => databases.first().map(|d| d.path.clone()),
            _ => None,
        }
    }

    /// The text of the user's own configuration, where there is one.
    ///
    /// # Errors
    /// 78 where it cannot be read.
    pub fn users_file(&self) -> Result<Option<String>, Failure> {
        let Source::File(path) = &self.settings.source else { return Ok(None) };
        std::fs::read_to_string(path).map(Some).about(path.display()).coded(exit::CONFIG)
    }

    /// Finds Litestream, takes a runtime directory for the boot or the command with this pid, and leaves the configuration there. `at` is told
    /// what is about to be touched.
    ///
    /// # Errors
    /// 78 or 71, in one line a problem.
    pub fn plan(&self, runtime_dir: Option<&Path>, pid: u32, at: &dyn Fn(&str)) -> Result<(Planned, Runtime), Failure> {
        let litestream = litestream::find(self.settings.litestream.as_deref())?;
        if let Source::File(path) = &self.settings.source {
            at(&path.display().to_string());
        }
        let file = self.users_file()?;
        at(&runtime_dir.unwrap_or(Path::new(runtime::USUAL)).display().to_string());
        let runtime = runtime::take(runtime_dir, self.first_database().as_deref(), pid)?;
        let socket = litestream.can(litestream::Ability::Socket).then(|| runtime.path.join(plan::SOCKET_FILE));
        let facilities = Facilities::look(socket.as_deref());
        let mut planned = plan::make(&self.settings, litestream, &runtime.path, file.as_deref(), &facilities)?;
        planned.notes.extend(facilities.lines(pid == 1));
        at(&planned.plan.directories_of_databases());
        paths::check(&planned.plan)?;
        at(&runtime.path.display().to_string());
        leave_configuration(&planned.plan, &planned.document, self.settings.secrets.google.as_deref())?;
        Ok((planned, runtime))
    }
}

fn unwritten(plan: &Plan, error: &std::io::Error) -> Failure {
    Failure::new(exit::SYSTEM, format!("{}: {error}", plan.runtime.display()))
}

/// Leaves in the runtime directory what Litestream reads.
///
/// # Errors
/// 71 where it cannot be written.
pub fn leave_configuration(plan: &Plan, document: &Document, google: Option<&str>) -> Result<(), Failure> {
    let written = google.map_or(Ok(()), |google| runtime::write(&plan.runtime.join(plan::GOOGLE_FILE), google));
    let written = written.and_then(|()| if plan.users_file { Ok(()) } else { runtime::write(&plan.config, &document.text()) });
    written.map_err(|e| unwritten(plan, &e))
}

/// Leaves in the runtime directory what the workers and `docker exec` read.
///
/// # Errors
/// 71 where it cannot be written.
pub fn leave_plan(plan: &Plan, document: &Document) -> Result<(), Failure> {
    let text = serde_yaml::to_string(plan).about("the plan cannot be written").coded(exit::INTERNAL)?;
    let mut written = runtime::write(&plan.runtime.join(plan::PLAN_FILE), &text);
    if !plan.users_file {
        written = written.and_then(|()| runtime::write(&plan.config_again(), &document.again(plan.litestream.format()).text()));
    }
    written.map_err(|e| unwritten(plan, &e))
}
