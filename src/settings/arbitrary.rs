//! Any environment at all: never a panic, never a secret in what is said, and what is rendered reads back.

use std::path::Path;

use proptest::prelude::*;
use serde_yaml::Value;

use super::*;
use crate::config::Style;
use crate::facilities::Facilities;
use crate::litestream::schema::KEYS;
use crate::litestream::{Line, Litestream};
use crate::plan;

/// Every name that is read, some for one database, some that nobody knows.
fn names() -> Vec<String> {
    let own = OPTIONS.iter().map(|(name, ..)| variable(name));
    let read = replicas::names().chain(databases::names()).chain(KEYS.iter().filter_map(|k| k.variable)).map(str::to_owned);
    let all: Vec<String> = own.chain(read).collect();
    let suffixed = all.iter().flat_map(|name| [format!("{name}_CACHE"), format!("{name}_FILE")]).collect::<Vec<_>>();
    [all, suffixed, vec!["LITESTREAM_ENTRY_NONSENSE".into(), "PATH".into()]].concat()
}

fn value() -> impl Strategy<Value = String> {
    let plausible = [
        "/data/app.db",
        "app=/data/app.db,cache=/data/cache.db",
        "[{\"path\":\"/d/x.db\",\"replica\":{\"type\":\"s3\",\"bucket\":\"b\",\"path\":\"p\"}}]",
        "- dir: /d/t\n  pattern: '*.db'",
        "sqlite:////data/app.db",
        "s3://bucket/path?endpoint=https://h&region=r",
        "sftp://u:p@h:22/x",
        "nats://h/b",
        "file:///backup",
        "true",
        "10s",
        "7",
        "s3",
        "sqlite",
        "https://h.example",
        "{\"type\":\"service_account\"}",
    ];
    prop_oneof![3 => proptest::sample::select(plausible.to_vec()).prop_map(str::to_owned), 1 => any::<String>(), 1 => "\\PC{0,40}"]
}

fn environment() -> impl Strategy<Value = Vec<(String, String)>> {
    let base = prop_oneof![
        Just(vec![("DATABASE_PATH".to_owned(), "/d/app.db".to_owned()), ("LITESTREAM_REPLICA_BUCKET".to_owned(), "b".to_owned())]),
        Just(vec![("LITESTREAM_DBS".to_owned(), "a=/d/a.db,cache=/d/c.db".to_owned()), ("REPLICA_URL".to_owned(), "file:///r".to_owned())]),
        Just(Vec::new()),
    ];
    let more = proptest::collection::vec((proptest::sample::select(names()), value()), 0..6);
    (base, more).prop_map(|(base, more)| [base, more].concat())
}

proptest! {
    #[test]
    fn any_environment_is_understood_or_refused_and_no_secret_is_shown(vars in environment(), mark in "[a-zA-Z0-9]{12}") {
        // What may hold a secret holds one that cannot be part of anything else.
        let vars: Vec<(String, String)> = vars
            .into_iter()
            .map(|(name, value)| match name {
                // A URL's place is shown; what stands before its host is not.
                name if name.contains("REPLICA_URL") => (name, value.replacen("u:p@", &format!("u:{mark}@"), 1)),
                name if environment::is_secret(&name) && !name.ends_with("_FILE") => (name, format!("{value}{mark}")),
                name => (name, value),
            })
            .collect();
        let pairs: Vec<(&str, &str)> = vars.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let settings = match read(&Environment::of(&pairs), &|_| false) {
            Ok(settings) => settings,
            Err(failure) => {
                prop_assert!(!failure.message.contains(&mark), "{failure}");
                prop_assert!(failure.code == exit::CONFIG && !failure.message.is_empty());
                return Ok(());
            }
        };
        for (line, version) in [(Line::V05, "0.5.17"), (Line::V03, "0.3.13")] {
            let litestream = Litestream { path: "/l".into(), version: version.parse().unwrap(), line, env: None };
            let Ok(planned) = plan::make(&settings, litestream, Path::new("/run/x"), None, &Facilities::ALL) else { continue };
            let said = [planned.notes.clone(), planned.findings.clone(), planned.plan.lines()].concat().join("\n");
            let shown = planned.document.written(Style::Explained);
            prop_assert!(!said.contains(&mark), "{said}");
            prop_assert!(!shown.contains(&mark), "{shown}");
            let text = planned.document.text();
            let back: Value = serde_yaml::from_str(&text).unwrap();
            prop_assert_eq!(&back, &planned.document.value(), "{}", text);
        }
    }
}
