//! The two URLs that a scheduled check calls: one to say what is wrong, one to say that all is well, whose silence is the alarm.
//! Must never run in PID 1, since names are looked up and strangers waited for, nor say more of a URL than its scheme and host.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Error};

use crate::json::Object;
use crate::settings::webhook::place;
use crate::{settings, time};

/// What is told of one database.
#[derive(Debug, Clone)]
pub struct News<'a> {
    /// A line for people.
    pub text: &'a str,
    /// The database's alias.
    pub database: &'a str,
    /// How its backup stands: `ok`, `different`, `failed`.
    pub state: &'a str,
    /// When that was found.
    pub time: SystemTime,
}

impl News<'_> {
    /// What is posted. Slack, Mattermost and their like show `text` and ignore the rest.
    fn json(&self, container: &str) -> String {
        // They refuse what is too long, and a control character is nothing to read.
        let text: String = self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
        Object::default()
            .with("text", text)
            .with("database", self.database)
            .with("state", self.state)
            .with("container", container)
            .with("time", time::rfc3339(self.time))
            .to_string()
    }
}

/// Posts it to `LITESTREAM_ENTRY_ALERT_URL`, where that is set: in a worker's environment, which has what `…_FILE` and options say.
/// Takes ten seconds at most.
///
/// # Errors
/// A line that names the variable, the URL's scheme and host, and what is wrong.
pub fn alert(news: &News<'_>) -> Result<(), String> {
    let container = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    call_set(settings::ALERT_URL, Some(&news.json(&container)))
}

/// Gets `LITESTREAM_ENTRY_HEARTBEAT_URL`, where that is set; only when every backup was proved. As [`alert`].
///
/// # Errors
/// As [`alert`].
pub fn heartbeat() -> Result<(), String> {
    call_set(settings::HEARTBEAT_URL, None)
}

fn call_set(variable: &str, body: Option<&str>) -> Result<(), String> {
    let Some(url) = std::env::var(variable).ok().filter(|text| !text.is_empty()) else { return Ok(()) };
    let bundle = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    call(&url, body, Duration::from_secs(10), bundle.as_deref()).map_err(|why| format!("{variable}: {why}"))
}

/// How many redirects a GET follows. Of a POST most would make a GET, and an alert be lost that seems to have arrived.
const REDIRECTS: u32 = 3;

fn call(url: &str, body: Option<&str>, most: Duration, bundle: Option<&Path>) -> Result<(), String> {
    let (tls, place) = place(url).ok_or("not a URL")?;
    let wrong = |why: &str| format!("{place}: {}", why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect::<String>());
    let mut config = Agent::config_builder()
        .timeout_global(Some(most))
        .max_redirects(if body.is_some() { 0 } else { REDIRECTS })
        // What was encrypted stays so.
        .https_only(tls)
        .user_agent(concat!("litestream-entry/", env!("CARGO_PKG_VERSION")));
    if tls {
        config = config.tls_config(TlsConfig::builder().root_certs(roots(bundle).map_err(|why| wrong(&why))?).build());
    }
    let agent = Agent::new_with_config(config.build());
    let answer = match body {
        Some(body) => agent.post(url.trim()).header("Content-Type", "application/json").send(body),
        None => agent.get(url.trim()).call(),
    };
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(wrong(&format!("answers {}", answer.status().as_u16()))),
        Err(error) => Err(wrong(&reason(&error, most))),
    }
}

/// In words that quote nothing: some of the library's own have the URL in them.
fn reason(error: &Error, most: Duration) -> String {
    match error {
        Error::StatusCode(code) => format!("answers {code}"),
        Error::Timeout(_) => format!("no answer within {} s", most.as_secs_f32()),
        Error::HostNotFound => "the host's name is not known".to_owned(),
        Error::ConnectionFailed => "no connection".to_owned(),
        Error::RequireHttpsOnly(_) => "redirects from https to http; not followed".to_owned(),
        Error::TooManyRedirects => format!("more than {REDIRECTS} redirects"),
        Error::Io(error) => error.to_string(),
        Error::Tls(why) => (*why).to_owned(),
        Error::Rustls(why) => why.to_string(),
        _ => "its answer is not understood".to_owned(),
    }
}

/// Debian and Alpine, Red Hat, the BSDs and Alpine again.
const BUNDLES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A system's is a fifth of a megabyte.
const LARGEST: u64 = 16 << 20;

/// Whose certificates are trusted: the system's, else Mozilla's list that is built in, since an image from scratch has none. Those
/// of `bundle` (`SSL_CERT_FILE`) come first, and with the system's: it may be there for a store of the user's own alone.
fn roots(bundle: Option<&Path>) -> Result<RootCerts, String> {
    let system = BUNDLES.iter().find_map(|path| certificates(Path::new(path)));
    let Some(path) = bundle else { return Ok(system.map_or(RootCerts::WebPki, |found| RootCerts::new_with_certs(&found))) };
    let mut found = certificates(path).ok_or("SSL_CERT_FILE: no certificate can be read from it")?;
    found.extend(system.unwrap_or_default());
    Ok(RootCerts::new_with_certs(&found))
}

/// None where there is none. One that is damaged does not spoil the others.
fn certificates(path: &Path) -> Option<Vec<Certificate<'static>>> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(LARGEST).read_to_end(&mut text).ok()?;
    let found = ureq::tls::parse_pem(&text).flatten().filter_map(|item| if let PemItem::Certificate(c) = item { Some(c) } else { None });
    let found: Vec<Certificate<'static>> = found.collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests;
