//! Where each database is replicated to: one URL, or a bucket or host and its parts, in every dialect in use. Must
//! never show a secret.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::dialects::{self, AZURE_ACCOUNTS, AZURE_CONNECTION, Dialect, GENERIC, PROVIDERS, TLS, URLS};
use super::replica::Replica;
use super::replica_url;
use super::values::{self, Kept};
use super::{Database, Environment};
use crate::litestream::ReplicaKind;
use crate::litestream::schema::{For, KEYS, Key, Section};

const TYPES: [&str; 2] = ["LITESTREAM_REPLICA_TYPE", "LITESTREAM_TYPE"];
const HOSTS: [&str; 1] = ["LITESTREAM_REPLICA_HOST"];
const WEBDAV: [&str; 1] = ["LITESTREAM_REPLICA_WEBDAV_URL"];

/// Every variable that is read here.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    dialects::names().chain(TYPES).chain(HOSTS).chain(WEBDAV)
}

/// Whether a variable that has no other purpose asks for replication.
pub(super) fn intended(env: &Environment) -> bool {
    let ours = |name: &&str| name.starts_with("LITESTREAM_") || *name == "REPLICA_URL";
    let keys = GENERIC.keys.iter().flat_map(|(id, secret)| [*id, *secret]);
    URLS.into_iter()
        .chain(GENERIC.buckets.iter().copied())
        .chain(HOSTS)
        .chain(WEBDAV)
        .chain(keys)
        .filter(ours)
        .any(|n| env.get(n).is_some())
}

/// The variable that names a replica for every database.
pub(super) fn decided_by(env: &Environment) -> Option<String> {
    View { env, suffix: None }.place().map(|place| place.name)
}

/// Gives each database its replica. Whether any variable names one is the result.
pub(super) fn complete(env: &Environment, databases: &mut [Database], problems: &mut Vec<String>) -> bool {
    let several = databases.len() > 1;
    let mut any = databases.is_empty() && decided_by(env).is_some();
    for database in databases.iter_mut() {
        let view = View::of(env, &database.alias);
        // The list form may bring its own.
        if database.replica.is_empty() && !database.extra.contains_key("replicas") {
            if let Some(replica) = view.replica(database, several, problems) {
                database.replica = replica;
                any = true;
            }
        } else {
            any = true;
        }
        for key in KEYS.iter().filter(|k| k.section == Section::Database && is_mentioned(env, k)) {
            view.add(key, &key_names(key), &mut Extra(database), problems);
        }
    }
    if any {
        for database in databases.iter().filter(|d| d.replica.is_empty() && !d.extra.contains_key("replicas")) {
            let suffix = suffix(&database.alias);
            problems.push(format!("{}: no replica for {}; set LITESTREAM_REPLICA_URL{suffix}", database.named_by, database.alias));
        }
    }
    for database in databases.iter() {
        refuse_keys_in_endpoints(database, problems);
    }
    refuse_shared_places(databases, problems);
    any
}

/// Litestream sends no user and no password of an endpoint to anybody, and says it in its log.
fn refuse_keys_in_endpoints(database: &Database, problems: &mut Vec<String>) {
    let listed = database.extra.get("replicas").and_then(Value::as_sequence).into_iter().flatten().filter_map(Value::as_mapping);
    let several: Vec<Replica> = listed.map(|mapping| Replica::of(mapping, &database.named_by)).collect();
    for replica in several.iter().chain([&database.replica]) {
        let in_url = replica.get("url").and_then(|url| url.split_once("endpoint=")).map(|(_, rest)| ("url", rest));
        let places = replica.get("endpoint").map(|endpoint| ("endpoint", endpoint)).into_iter().chain(in_url);
        for (key, _) in places.filter(|(_, text)| text.contains('@') || text.contains("%40")) {
            let name = replica.from(key).unwrap_or(&database.named_by);
            let row = replica.kind().unwrap_or(ReplicaKind::S3).row();
            let keys = row.credentials.unwrap_or("what this type of replica has for it");
            problems.push(format!(
                "{name}: a user or password in an endpoint, which Litestream does not use; write the host alone, and set {keys}"
            ));
        }
    }
}

/// What stands behind a variable's name for one database: `_CACHE`.
pub fn suffix(alias: &str) -> String {
    format!("_{}", alias.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect::<String>())
}

/// A variable's name and value.
pub(super) type Found = (String, String);

/// The variables as one database sees them: `NAME_ALIAS` before `NAME`.
pub(super) struct View<'a> {
    pub(super) env: &'a Environment,
    pub(super) suffix: Option<String>,
}

/// What says where a replica is.
struct Place {
    name: String,
    value: String,
    own: bool,
    by: By,
}

enum By {
    Url,
    Bucket(&'static Dialect),
    Host,
    Webdav,
    /// A folder, of a replica of type `file`.
    Folder,
}

/// Why a replica cannot be what was meant.
fn impossible(replica: &Replica, database: &Path) -> Option<&'static str> {
    let is = |key: &str, wrong: &dyn Fn(&str) -> bool| replica.get(key).is_some_and(wrong);
    if ["bucket", "path", "host", "endpoint", "region"].iter().any(|key| is(key, &|text| text.contains(char::is_control))) {
        return Some("a control character in a replica's setting; remove it");
    }
    if is("bucket", &|name| name.contains(['/', ':', ' '])) {
        return Some("write the bucket's name alone here, the folder into LITESTREAM_REPLICA_PATH, a URL into LITESTREAM_REPLICA_URL");
    }
    let has_user = replica.value("user").is_some() || is("url", &|url| url.contains('@'));
    if replica.kind() == Some(ReplicaKind::Sftp) && !has_user {
        return Some("SFTP needs a user; set LITESTREAM_REPLICA_USER, or write sftp://USER@HOST/PATH");
    }
    if replica.kind() == Some(ReplicaKind::File) && is("path", &|path| Path::new(path) == database) {
        return Some("the replica is the database's own path; name a directory elsewhere");
    }
    None
}

/// What is wrong with the variables of keys, whatever replica there is.
pub(super) fn check(env: &Environment, problems: &mut Vec<String>) {
    for key in KEYS.iter().filter(|k| is_mentioned(env, k)) {
        for name in key_names(key) {
            if let Some(Kept::Bad(form)) = env.get(&name).map(|text| values::read(key.kind, text)) {
                let problem = format!("{name}: {form}");
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
}

/// Whether a variable may set the key: dozens of keys are looked for at each start, and few are set.
fn is_mentioned(env: &Environment, key: &Key) -> bool {
    fn bare(name: &str) -> Option<&str> {
        name.strip_prefix("LITESTREAM_").map(|rest| rest.strip_prefix("REPLICA_").unwrap_or(rest))
    }
    // These two have names of other families.
    if matches!(key.name, "endpoint" | "region") {
        return true;
    }
    let Some(wanted) = key.variable.and_then(bare) else { return false };
    env.prefixed("LITESTREAM_").any(|(name, _)| bare(name).is_some_and(|rest| rest.starts_with(wanted)))
}

/// A key's names: as it stands in the schema, and without `REPLICA_` where nothing else is called so.
pub(super) fn key_names(key: &Key) -> Vec<String> {
    let Some(variable) = key.variable else { return Vec::new() };
    let mut names = vec![variable.to_owned()];
    if matches!(key.of, For::Any | For::S3) && variable.starts_with("LITESTREAM_REPLICA_") {
        names.push(variable.replacen("REPLICA_", "", 1));
    }
    names
}

impl<'a> View<'a> {
    /// Most have no variable of their own, which is seen at once.
    fn of(env: &'a Environment, alias: &str) -> Self {
        let suffix = suffix(alias);
        // For a database called `file` they would be the names of files with secrets.
        let has_own = suffix != "_FILE" && env.prefixed("").any(|(name, _)| name.ends_with(&suffix));
        Self { env, suffix: has_own.then_some(suffix) }
    }
}

impl View<'_> {
    pub(super) fn own(&self, names: &[impl AsRef<str>]) -> Option<Found> {
        let suffix = self.suffix.as_ref()?;
        names.iter().map(|name| format!("{}{suffix}", name.as_ref())).find_map(|name| Some((name.clone(), self.env.get(&name)?.to_owned())))
    }

    fn shared(&self, names: &[impl AsRef<str>]) -> Option<Found> {
        names.iter().find_map(|name| Some((name.as_ref().to_owned(), self.env.get(name.as_ref())?.to_owned())))
    }

    pub(super) fn any(&self, names: &[impl AsRef<str>]) -> Option<Found> {
        self.own(names).or_else(|| self.shared(names))
    }

    /// What is only this database's comes before what is everybody's; in each a URL before a bucket before a host.
    fn place(&self) -> Option<Place> {
        let at = |own: bool| {
            let get = |names: &[&str]| if own { self.own(names) } else { self.shared(names) };
            let place = |(name, value): Found, by| Place { name, value, own, by };
            let bucket = || dialects::all().find_map(|d| get(d.buckets).map(|found| place(found, By::Bucket(d))));
            let is_file = || self.any(&TYPES).is_some_and(|(_, kind)| ReplicaKind::parse(&kind) == Some(ReplicaKind::File));
            get(&URLS)
                .map(|found| place(found, By::Url))
                .or_else(bucket)
                .or_else(|| get(&HOSTS).map(|found| place(found, By::Host)))
                .or_else(|| get(&WEBDAV).map(|found| place(found, By::Webdav)))
                .or_else(|| get(GENERIC.prefixes).filter(|_| is_file()).map(|found| place(found, By::Folder)))
        };
        at(true).or_else(|| at(false))
    }

    /// Whose names the parts have. A place without a provider's name in it belongs to the only provider whose
    /// keys are here, where there are no others.
    pub(super) fn dialect(&self) -> &'static Dialect {
        if let Some(Place { by: By::Bucket(dialect), .. }) = self.place()
            && !dialect.is_generic()
        {
            return dialect;
        }
        let has_keys = |d: &Dialect| d.keys.iter().any(|(id, secret)| self.any(&[id]).is_some() && self.any(&[secret]).is_some());
        let mut with_keys = PROVIDERS.iter().filter(|d| has_keys(d));
        match (has_keys(&GENERIC), with_keys.next(), with_keys.next()) {
            (false, Some(only), None) => only,
            _ => &GENERIC,
        }
    }

    fn replica(&self, database: &Database, several: bool, problems: &mut Vec<String>) -> Option<Replica> {
        let place = self.place()?;
        let file_name = database.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut replica = self.start(&place, &file_name, several).map_err(|problem| problems.push(problem)).ok()?;
        self.add_parts(&mut replica, problems);
        if let Some(why) = impossible(&replica, &database.path) {
            problems.push(format!("{}: {why}", place.name));
        }
        Some(replica)
    }

    /// The type that a variable names, which may be another than the place says.
    fn kind(&self) -> Result<Option<(String, ReplicaKind)>, String> {
        let Some((name, text)) = self.any(&TYPES) else { return Ok(None) };
        let none = || format!("{name}: not a replica type; one of {}", ReplicaKind::ALL.map(ReplicaKind::name).join(", "));
        ReplicaKind::parse(&text).ok_or_else(none).map(|kind| Some((name.clone(), kind)))
    }

    /// A replica at this place, without its other parts.
    fn start(&self, place: &Place, file_name: &str, several: bool) -> Result<Replica, String> {
        let kind = self.kind()?;
        let (name, value) = (place.name.as_str(), place.value.trim());
        Ok(match place.by {
            By::Url => {
                let append = (several && !place.own).then_some(file_name);
                let replica = replica_url::parse(name, value, append).map_err(|why| format!("{name}: {why}"))?;
                if let (Some((by, kind)), Some(own)) = (kind, replica.kind())
                    && kind != own
                {
                    return Err(format!("{by} is {}, but {name} is of type {}; unset one", kind.name(), own.name()));
                }
                replica
            }
            By::Bucket(dialect) => {
                let kind = kind.map_or(dialect.kind, |(_, kind)| kind);
                if !kind.row().in_bucket {
                    return Err(format!(
                        "{name}: a replica of type {} has no bucket; unset one, or set LITESTREAM_REPLICA_URL",
                        kind.name()
                    ));
                }
                self.at(kind, file_name).with("bucket", value.trim_matches('/'), name)
            }
            By::Host => self.at(ReplicaKind::Sftp, file_name).with("host", value, name),
            By::Webdav => self.at(ReplicaKind::Webdav, file_name),
            By::Folder if !value.starts_with('/') => return Err(format!("{name}: a file replica needs an absolute path, as /backup")),
            By::Folder => {
                let replica = self.at(ReplicaKind::File, file_name);
                let path = format!("/{}", replica.get("path").unwrap_or_default());
                replica.with("path", &path, name)
            }
        })
    }

    /// A replica of this type, in the folder that the variables name: `[prefix/]<file name>`.
    fn at(&self, kind: ReplicaKind, file_name: &str) -> Replica {
        let prefixes: Vec<&str> = GENERIC.prefixes.iter().chain(self.dialect().prefixes).copied().collect();
        // Slashes at the ends would become part of every object's name.
        let (path, from) = match (self.own(&prefixes), self.shared(&prefixes)) {
            (Some((name, path)), _) => (path.trim_matches('/').to_owned(), name),
            (None, Some((name, prefix))) => (format!("{}/{file_name}", prefix.trim_matches('/')), name),
            (None, None) => (file_name.to_owned(), String::new()),
        };
        Replica::default().with("type", kind.name(), "").with("path", path.trim_matches('/'), &from)
    }

    fn add_parts(&self, replica: &mut Replica, problems: &mut Vec<String>) {
        let (Some(kind), dialect) = (replica.kind(), self.dialect()) else { return };
        let is_meant = |k: &&Key| k.section == Section::Replica && kind.takes(k.of, k.name) && is_mentioned(self.env, k);
        for key in KEYS.iter().filter(is_meant) {
            self.add(key, &self.names_of(key, dialect), &mut *replica, problems);
        }
        match kind {
            ReplicaKind::S3 => self.complete_s3(replica, dialect),
            ReplicaKind::Abs => self.complete_azure(replica),
            ReplicaKind::Gs | ReplicaKind::Oss | ReplicaKind::Sftp | ReplicaKind::Nats | ReplicaKind::Webdav | ReplicaKind::File => {}
        }
        if let (true, Some(pair)) = (kind.row().keys == Some(For::S3), self.own_keys(dialect, problems)) {
            let [(id_name, id), (secret_name, secret)] = pair;
            replica.set("access-key-id", &id, &id_name);
            replica.set("secret-access-key", &secret, &secret_name);
        }
    }

    /// Sets a key from the first of its variables, where nothing has set it yet: what the URL itself says wins.
    fn add(&self, key: &Key, names: &[String], to: &mut dyn Keyed, problems: &mut Vec<String>) {
        if names.is_empty() || to.has(key.name) {
            return;
        }
        let Some((name, text)) = self.any(names) else { return };
        match values::read(key.kind, &text) {
            Kept::Value(value) => to.put(key.name, value, &name),
            // What is everybody's has been looked at already.
            Kept::Bad(form) if self.suffix.as_ref().is_some_and(|s| name.ends_with(s)) => problems.push(format!("{name}: {form}")),
            Kept::Bad(_) => {}
        }
    }

    /// The names of a key in a dialect: Litestream's own, the provider's, and where there is no provider everybody's.
    fn names_of(&self, key: &Key, dialect: &'static Dialect) -> Vec<String> {
        let (generic, own, foreign) = match key.name {
            "endpoint" => (GENERIC.endpoints, dialect.endpoints, self.any(&derived(dialect)).is_none()),
            "region" => (GENERIC.regions, dialect.regions, dialect.is_generic()),
            _ => return key_names(key),
        };
        let ours = |name: &&str| name.starts_with("LITESTREAM_");
        let rest = generic.iter().filter(|n| !ours(n) && foreign);
        let mut names: Vec<String> = generic.iter().filter(|n| ours(n)).chain(own).chain(rest).map(|n| (*n).to_owned()).collect();
        names.dedup();
        names
    }

    fn complete_s3(&self, replica: &mut Replica, dialect: &'static Dialect) {
        if replica.get("endpoint").is_none()
            && let Some((template, names)) = dialect.derived
            && let Some((name, value)) = self.any(names)
        {
            replica.set("endpoint", &template.replace("{}", value.trim()), &name);
        }
        let Some(endpoint) = replica.get("endpoint").map(|e| e.trim_end_matches('/').to_owned()) else { return };
        let from = replica.from("endpoint").unwrap_or_default().to_owned();
        // A bare host means https to Litestream.
        let tls = self.any(&TLS).is_some_and(|(_, on)| matches!(values::read_flag(&on), Some(true)));
        let scheme = if tls { "https" } else { dialect.scheme };
        let endpoint = if endpoint.contains("://") { endpoint } else { format!("{scheme}://{endpoint}") };
        if replica.get("region").is_none() {
            // Litestream would ask AWS where the bucket is.
            replica.set("region", dialects::region_of(&endpoint), &from);
        }
        replica.set("endpoint", &endpoint, &from);
    }

    fn complete_azure(&self, replica: &mut Replica) {
        let connection = self.any(&[AZURE_CONNECTION]);
        let in_connection = |key: &str| connection.as_ref().and_then(|(name, text)| Some((name.clone(), azure_part(text, key)?)));
        if replica.get("account-name").is_none()
            && let Some((name, account)) = self.any(&AZURE_ACCOUNTS).or_else(|| in_connection("AccountName"))
        {
            replica.set("account-name", &account, &name);
        }
        if replica.get("endpoint").is_none()
            && let Some((name, endpoint)) = in_connection("BlobEndpoint")
        {
            replica.set("endpoint", &endpoint, &name);
        }
    }

    /// A pair of keys for this database alone.
    fn own_keys(&self, dialect: &'static Dialect, problems: &mut Vec<String>) -> Option<[Found; 2]> {
        let suffix = self.suffix.as_ref()?;
        keys_of(dialect).find_map(|(id, secret)| pair(self.env, &format!("{id}{suffix}"), &format!("{secret}{suffix}"), problems))
    }
}

fn derived(dialect: &'static Dialect) -> Vec<&'static str> {
    dialect.derived.map(|(_, names)| names.to_vec()).unwrap_or_default()
}

/// Litestream's own pairs, the provider's, and everybody's.
pub(super) fn keys_of(dialect: &'static Dialect) -> impl Iterator<Item = (&'static str, &'static str)> {
    let ours = |pair: &&(&str, &str)| pair.0.starts_with("LITESTREAM_");
    let own = if dialect.is_generic() { &[][..] } else { dialect.keys };
    GENERIC.keys.iter().filter(ours).chain(own).chain(GENERIC.keys.iter().filter(move |p| !ours(p))).copied()
}

/// Both halves of a pair. Half of one is a mistake, but for `AWS_…`, which may be the app's own business.
pub(super) fn pair(env: &Environment, id_name: &str, secret_name: &str, problems: &mut Vec<String>) -> Option<[Found; 2]> {
    match (env.get(id_name), env.get(secret_name)) {
        (Some(id), Some(secret)) => Some([(id_name.to_owned(), id.to_owned()), (secret_name.to_owned(), secret.to_owned())]),
        (id, secret) if id.is_some() != secret.is_some() && id_name.starts_with("LITESTREAM_") => {
            let (set, unset) = if id.is_some() { (id_name, secret_name) } else { (secret_name, id_name) };
            problems.push(format!("{set} is set, but {unset} is not; set both"));
            None
        }
        _ => None,
    }
}

/// A part of Azure's connection string: `AccountName=…;AccountKey=…;…`.
pub(super) fn azure_part(text: &str, key: &str) -> Option<String> {
    text.split(';').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('=')).map(str::to_owned).filter(|v| !v.is_empty())
}

/// What takes keys: a replica, or a database.
trait Keyed {
    fn has(&self, key: &str) -> bool;
    fn put(&mut self, key: &str, value: Value, from: &str);
}

impl Keyed for Replica {
    fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    fn put(&mut self, key: &str, value: Value, from: &str) {
        self.set_value(key, value, from);
    }
}

struct Extra<'a>(&'a mut Database);

impl Keyed for Extra<'_> {
    fn has(&self, key: &str) -> bool {
        self.0.extra.contains_key(key)
    }

    fn put(&mut self, key: &str, value: Value, from: &str) {
        self.0.extra.insert(Value::String(key.to_owned()), value);
        self.0.from.insert(key.to_owned(), from.to_owned());
    }
}

fn refuse_shared_places(databases: &[Database], problems: &mut Vec<String>) {
    for (at, database) in databases.iter().enumerate().filter(|(_, d)| !d.replica.is_empty()) {
        if let Some(other) = databases.iter().take(at).find(|o| o.replica.place() == database.replica.place()) {
            problems.push(format!(
                "{}: {} and {} would share the replica {}, which destroys both backups; set LITESTREAM_REPLICA_URL{}",
                database.named_by,
                other.alias,
                database.alias,
                database.replica.shown(),
                suffix(&database.alias)
            ));
        }
    }
}

/// The list form's own replica, which may stand under either line's key.
pub(super) fn take_listed(entry: &mut Mapping, from: &str) -> Replica {
    let single = match entry.get("replicas") {
        Some(Value::Sequence(list)) if list.len() == 1 => true,
        Some(_) => false,
        None => entry.contains_key("replica"),
    };
    let value = if single { entry.remove("replica").or_else(|| entry.remove("replicas")) } else { None };
    let mapping = match value {
        Some(Value::Mapping(mapping)) => mapping,
        Some(Value::Sequence(list)) => list.into_iter().next().and_then(|v| v.as_mapping().cloned()).unwrap_or_default(),
        _ => Mapping::new(),
    };
    Replica::of(&mapping, from)
}
