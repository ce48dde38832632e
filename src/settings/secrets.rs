//! What Litestream and the workers read from their environment instead of a file, whatever names it came under. Must never show it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Environment;
use super::dialects::{AZURE_CONNECTION, AZURE_KEYS, AZURE_TOKENS, GOOGLE_BASE64, GOOGLE_JSON};
use super::replicas::{Found, View, azure_part, keys_of, pair};
use super::webhook;

/// Where a scheduled verify says what is wrong.
pub const ALERT_URL: &str = "LITESTREAM_ENTRY_ALERT_URL";
/// What it calls for a backup that is proved: its silence is the alarm.
pub const HEARTBEAT_URL: &str = "LITESTREAM_ENTRY_HEARTBEAT_URL";

/// Secrets for every replica that has none of its own, and for what is called after a verify.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Under the names that Litestream reads, and the workers.
    pub env: Vec<(&'static str, String)>,
    /// The variables that the replicas' came from.
    pub from: Vec<String>,
    /// Google's service account: Litestream reads it from a file alone.
    pub google: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets(from {})", self.from.join(", "))
    }
}

impl Secrets {
    fn add(&mut self, name: &'static str, (from, secret): Found) {
        self.env.push((name, secret));
        if !self.from.contains(&from) {
            self.from.push(from);
        }
    }

    /// Whether they are the `AWS_…` pair itself, so that its session token belongs to them.
    pub fn keep_session_token(&self) -> bool {
        self.from.iter().any(|f| f == "AWS_ACCESS_KEY_ID") || !self.env.iter().any(|(name, _)| *name == "AWS_ACCESS_KEY_ID")
    }
}

pub(super) fn read(env: &Environment, problems: &mut Vec<String>) -> Secrets {
    let view = View { env, suffix: None };
    let mut secrets = Secrets::default();
    if let Some([id, secret]) = keys_of(view.dialect()).find_map(|(id, secret)| pair(env, id, secret, problems)) {
        // Alibaba's client has names of its own.
        secrets.add("OSS_ACCESS_KEY_ID", id.clone());
        secrets.add("OSS_ACCESS_KEY_SECRET", secret.clone());
        secrets.add("AWS_ACCESS_KEY_ID", id);
        secrets.add("AWS_SECRET_ACCESS_KEY", secret);
    }
    let connection = |key: &str| view.any(&[AZURE_CONNECTION]).and_then(|(name, text)| Some((name, azure_part(&text, key)?)));
    if let Some(key) = view.any(&AZURE_KEYS).or_else(|| connection("AccountKey")) {
        secrets.add("LITESTREAM_AZURE_ACCOUNT_KEY", key);
    }
    if let Some(token) = view.any(&AZURE_TOKENS).or_else(|| connection("SharedAccessSignature")) {
        secrets.add("LITESTREAM_AZURE_SAS_TOKEN", token);
    }
    for name in [ALERT_URL, HEARTBEAT_URL] {
        match env.get(name) {
            // An option's and a file's, too: a worker knows only its environment.
            Some(text) if webhook::is_url(text) => secrets.env.push((name, text.to_owned())),
            Some(_) => problems.push(format!("{name}: not a URL; write https://HOST/PATH or http://HOST/PATH")),
            None => {}
        }
    }
    secrets.google = google(&view, &mut secrets.from, problems);
    secrets
}

fn google(view: &View<'_>, from: &mut Vec<String>, problems: &mut Vec<String>) -> Option<String> {
    let (name, text) = match (view.any(&GOOGLE_JSON), view.any(&GOOGLE_BASE64)) {
        (Some(found), _) => found,
        (None, Some((name, text))) => {
            let compact: String = text.split_whitespace().collect();
            let Some(json) = STANDARD.decode(compact).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
                problems.push(format!("{name}: not base64 of a service account's JSON"));
                return None;
            };
            (name, json)
        }
        (None, None) => return None,
    };
    if !text.trim_start().starts_with('{') {
        problems.push(format!("{name}: not a service account's JSON"));
        return None;
    }
    from.push(name);
    Some(text)
}
