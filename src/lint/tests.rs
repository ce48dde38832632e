//! What the lint says, case by case. Must never need a Litestream binary.

use proptest::prelude::*;

use super::*;
use Line::{V03, V05};

/// A file of 0.5 in which nothing is wrong, around what is tested.
const GOOD_05: &str = "socket: {enabled: true}\ndbs: [{path: /d/a.db, replica: {url: 's3://b/a'}}]\n";
const GOOD_03: &str = "dbs: [{path: /d/a.db, replicas: [{url: 's3://b/a'}]}]\n";

fn environment(name: &str) -> Option<String> {
    match name {
        "BUCKET" => Some("some-bucket".to_owned()),
        "DAY" => Some("1d".to_owned()),
        "COLON" => Some("h: unter: 2".to_owned()),
        "NUMBER" => Some("4711".to_owned()),
        "NATS" => Some("nats://h/b".to_owned()),
        "KEY" => Some("loging".to_owned()),
        "EMPTY" => Some(String::new()),
        "DBS" => Some("[{path: /d/a.db, replicas: [{url: s3://b/a}]}]".to_owned()),
        _ => None,
    }
}

fn found(text: &str, line: Line) -> Vec<Finding> {
    lint(text, line, &environment)
}

/// The findings as lines of text.
fn said(text: &str, line: Line) -> String {
    found(text, line).iter().map(|f| format!("{}:{}: {}", f.line, f.column, f.what)).collect::<Vec<_>>().join("\n")
}

/// What is said of a replica's keys; 0.3 and 0.5 alike.
fn replica(keys: &str, line: Line) -> String {
    match line {
        V03 => said(&format!("dbs:\n  - path: /d/a.db\n    replicas:\n      - {keys}\n"), line),
        V05 => said(&format!("socket: {{enabled: true}}\ndbs:\n  - path: /d/a.db\n    replica:\n        {keys}\n"), line),
    }
}

/// One finding, which stands there and has all of these in it.
#[track_caller]
fn one(said: &str, at: &str, parts: &[&str]) {
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with(&format!("{at}: ")), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[test]
fn a_flag_in_quotes_is_written_as_what_was_meant() {
    for (text, meant) in [("'off'", "false"), ("'No'", "false"), ("'false'", "false"), ("'on'", "true")] {
        let said = replica(&format!("{{type: s3, bucket: b, path: p, region: r, force-path-style: {text}}}"), V05);
        assert!(said.contains(&format!("write `force-path-style: {meant}`")), "{text}: {said}");
    }
}

#[test]
fn a_password_in_an_endpoint_is_seen_and_not_shown() {
    for line in [V03, V05] {
        let said = replica("{type: s3, bucket: b, path: p, region: r, endpoint: 'http://u:hunter2@h'}", line);
        assert!(said.lines().count() == 1 && said.contains("endpoint: ") && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_path_by_which_another_file_is_opened_is_grave_on_the_line_that_does() {
    let file = |path: &str| format!("socket: {{enabled: true}}\ndbs:\n  - path: '{path}'\n    replica: {{url: 's3://b/a'}}\n");
    for path in ["/d/a?b.db", "/d/a#b.db", "/d/a%41.db"] {
        one(&said(&file(path), V05), "3:5", &["path: ", "another file", "rename"]);
        assert!(found(&file(path), V05).iter().all(|f| f.grave));
    }
    assert_eq!(said(&file("/d/100%.db"), V05), "");
    let older = "dbs: [{path: '/d/a#b.db', replicas: [{url: 's3://b/a'}]}]\n";
    assert_eq!(said(older, V03), "");
    one(&said(&older.replace('#', "?"), V03), "1:8", &["path: "]);
}

#[test]
fn a_file_in_which_nothing_is_wrong_has_no_finding() {
    assert_eq!(said(GOOD_05, V05), "");
    assert_eq!(said(GOOD_03, V03), "");
    let merged = "x-s3: &s3\n  bucket: b\n  type: s3\ndbs:\n  - path: /d/a.db\n    replicas:\n      - <<: *s3\n        path: a\n";
    assert_eq!(said(merged, V03), "");
    let full = "addr: ':9090'\nsocket: {enabled: yes}\nbucket: ${BUCKET}\nlogging: {type: pretty, stderr: true}\nlevels:\n  - interval: 30s\n\
        dbs:\n  - dir: /d\n    pattern: '*.db'\n    replica: {type: s3, path: p, sync-interval: 500ms}\n";
    assert_eq!(said(full, V05), "");
}

#[test]
fn an_unknown_key_names_the_line_that_has_it_its_place_or_its_neighbour() {
    one(&said(&format!("mcp-addr: ':3001'\n{GOOD_03}"), V03), "1:1", &["mcp-addr: only Litestream 0.5 knows it", "remove it"]);
    assert_eq!(said(&format!("mcp-addr: ':3001'\n{GOOD_05}"), V05), "");
    one(&said(&format!("retention: 24h\n{GOOD_03}"), V03), "1:1", &["write it under a replica"]);
    one(&said(&format!("retention: {{enabled: false}}\n{GOOD_03}"), V03), "1:1", &["only Litestream 0.5"]);
    for (line, good) in [(V03, GOOD_03), (V05, GOOD_05)] {
        one(&said(&format!("loging: {{}}\n{good}"), line), "1:1", &["loging: neither 0.3 nor 0.5 knows it", "`logging`"]);
        one(&said(&format!("{good}url: s3://b/a\n"), line), if line == V03 { "2:1" } else { "3:1" }, &["under a replica"]);
    }
    one(&replica("{url: 's3://b/a', sync_interval: 1s}", V03), "4:27", &["sync_interval", "`sync-interval`"]);
    let misplaced = GOOD_05.replace("path:", "sync-interval: 1s, path:");
    one(&said(&misplaced, V05), "2:8", &["sync-interval", "in an entry of `dbs:`", "write it under a replica"]);
    let deep = format!("logging: {{levl: debug}}\nsnapshot: {{intervall: 1h}}\n{GOOD_05}");
    assert!(said(&deep, V05).contains("1:11: levl") && said(&deep, V05).contains("`interval`"), "{}", said(&deep, V05));
}

#[test]
fn retention_of_03_becomes_a_snapshot_of_05_with_the_users_values() {
    let text = "{url: 's3://b/a', retention: 72h, snapshot-interval: 1d, retention-check-interval: 1h}";
    assert_eq!(replica(&text.replace("1d", "1h"), V03), "");
    let said = replica(text, V05);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert_eq!(said.matches("`snapshot: {interval: 24h, retention: 72h}` at the top").count(), 2, "{said}");
    assert!(said.contains("retention-check-interval: ") && said.contains("remove it"), "{said}");
    let said = super::tests::said(&format!("snapshot: {{interval: 1h, retention: 9h}}\n{GOOD_03}"), V03);
    one(&said, "1:1", &["`snapshot-interval: 1h` and `retention: 9h` under each replica"]);
    let top = super::tests::said(&format!("retention: 24h\n{GOOD_05}"), V05);
    one(&top, "1:1", &["`snapshot: {retention: 24h}`"]);
    one(&replica("{url: 's3://b/a', validation-interval: 6h}", V05), "5:27", &["`validation: {interval: 6h}` at the top"]);
}

#[test]
fn a_page_count_that_05_ignores_is_named() {
    let text = |good: &str| good.replace("path:", "max-checkpoint-page-count: 9000, path:");
    one(&said(&text(GOOD_05), V05), "2:8", &["`truncate-page-n: 9000`"]);
    assert_eq!(said(&text(GOOD_03), V03), "");
}

#[test]
fn each_line_is_told_its_own_form_of_a_replica() {
    let one_replica = "socket: {enabled: true}\ndbs:\n  - path: /d/a.db\n    replica:\n      url: s3://b/a\n";
    one(&said(&one_replica.replace("socket: {enabled: true}\n", ""), V03), "3:5", &["NOTHING IS BACKED UP", "`replicas: [{url: …}]`"]);
    assert_eq!(said(one_replica, V05), "");
    let two = "[{url: s3://b/a}, {url: s3://b/b}]";
    assert_eq!(said(&format!("dbs: [{{path: /d/a.db, replicas: {two}}}]"), V03), "");
    one(&said(&format!("socket: {{enabled: true}}\ndbs: [{{path: /d/a.db, replicas: {two}}}]"), V05), "2:23", &["refuses more than one"]);
    let both = "socket: {enabled: true}\ndbs: [{path: /d/a.db, replica: {url: s3://b/a}, replicas: [{url: s3://b/b}]}]";
    one(&said(both, V05), "2:49", &["remove the `replicas:`"]);
}

#[test]
fn a_default_in_a_variable_is_none_to_litestream() {
    for operator in [":-", "-", ":=", "=", ":?", ":+"] {
        for line in [V03, V05] {
            let said = replica(&format!("{{url: 's3://b/a', name: ${{PLACE{operator}hunter2}}}}"), line);
            assert!(said.contains("name: Litestream knows no default in `${PLACE…}`"), "{said}");
            assert!(said.contains("write `${PLACE}` and set PLACE in the environment") && !said.contains("hunter2"), "{said}");
        }
    }
    let said = replica("type: s3\n        bucket: ${BUCKET:-b}", V05);
    one(&said, "6:17", &["bucket: Litestream knows no default"]);
}

#[test]
fn a_dollar_that_vanishes_is_said_without_the_value() {
    for password in ["pa$$word", "pa$1word", "pa$*word", "pa$?word", "pa$word", "pa${wo.rd}", "pa${", "pa${}word"] {
        let said = replica(&format!("type: sftp\n        host: h\n        user: u\n        password: '{password}'"), V05);
        let quiet = !said.contains("word") || said.matches("word").count() == said.matches("password").count();
        assert!(said.contains("8:") && said.contains("vanish") && quiet, "{password}: {said}");
    }
    assert_eq!(replica("{url: 's3://b/a', secret-access-key: 'a$/b$'}", V05), "");
    one(&said(&format!("addr: '${{x\n{GOOD_03}"), V03), "1:8", &["vanish"]);
}

#[test]
fn a_variable_that_is_not_set_is_named_where_it_is_put() {
    for line in [V03, V05] {
        for name in ["NOWHERE", "EMPTY"] {
            let said = replica(&format!("{{url: 's3://b/a', name: ${name}, secret-access-key: '${{{name}}}'}}"), line);
            assert_eq!(said.matches(&format!(": {name} is not set")).count(), 2, "{said}");
        }
    }
    assert_eq!(said(&format!("# ${{NOWHERE:-x}} and $1\n{GOOD_03}"), V03), "");
    // In a secret's or a URL's place, only what looks like nothing but a variable's name.
    assert!(replica("url: $REPLICA_URL", V05).contains("url: REPLICA_URL is not set"));
    assert!(!replica("url: 's3://$REPLICA_URL'", V05).contains("REPLICA_URL is"));
    assert_eq!(said(&GOOD_05.replace("a.db", "$PID.db"), V05), "");
    one(&said(&GOOD_03.replace("a.db", "$PID.db"), V03), "1:17", &["PID is not set"]);
    assert_eq!(said("dbs: ${DBS}", V03), "");
    // In a comment too, what is not closed goes on.
    one(&said(&format!("# ${{NOWHERE\n{GOOD_03}"), V03), "1:3", &["no `}` on its line"]);
}

#[test]
fn what_a_variable_holds_is_put_right_where_it_is_set_and_not_shown() {
    for line in [V03, V05] {
        let said = replica("{url: 's3://b/a', sync-interval: ${DAY}}", line);
        assert!(said.contains("set the variable in `${DAY}`") && !said.contains("1d"), "{said}");
    }
    assert!(said("dbs: [{path: /d, min-checkpoint-page-count: '${NUMBER}'}]", V03).contains("`min-checkpoint-page-count: 1000`"));
    one(&replica("url: ${NATS}", V03), "4:9", &["url: what its variable holds", "one of s3, gcs, abs, sftp, file"]);
    assert!(replica("{path: '${NATS}'}", V05).contains("write `url: …`"));
    assert_eq!(said(&format!("${{KEY}}: x\n{GOOD_03}"), V03), "");
    let said = replica("{url: 's3://b/a', name: ${COLON}}", V03);
    assert!(said.contains("makes this no YAML") && said.contains("in single quotes") && !said.contains("unter"), "{said}");
}

#[test]
fn exec_would_start_the_app_twice() {
    for (line, good) in [(V03, GOOD_03), (V05, GOOD_05)] {
        let said = said(&format!("exec: app --token hunter2\n{good}"), line);
        one(&said, "1:1", &["exec: ", "CMD"]);
        assert!(!said.contains("hunter2"));
    }
}

#[test]
fn two_databases_share_neither_path_nor_place() {
    for (line, key) in [(V03, "replicas: [{"), (V05, "replica: {")] {
        let end = if line == V03 { "}]" } else { "}" };
        let entry = |path: &str, keys: &str| format!("  - path: {path}\n    {key}{keys}{end}\n");
        let file =
            |a: String, b: String| said(&format!("dbs:\n{a}{b}{}", if line == V05 { "socket: {enabled: true}\n" } else { "" }), line);
        one(&file(entry("/d/a.db", "url: s3://b/a"), entry("/d/./a.db", "url: s3://b/b")), "4:5", &["line 2", "remove one"]);
        let same = file(entry("/d/a.db", "url: s3://u:hunter2@b/a/"), entry("/d/b.db", "type: s3, bucket: b, path: a"));
        assert!(same.starts_with("5:") && same.contains("same place") && same.contains("…/b.db"), "{same}");
        assert!(!same.contains("hunter2"));
        assert_eq!(file(entry("/d/a.db", "url: s3://b/a"), entry("/d/b.db", "url: s3://b/b")), "");
    }
}

#[test]
fn a_duration_has_a_unit_that_go_reads() {
    for line in [V03, V05] {
        for (wrong, right) in [("10", "10s"), ("'10'", "10s"), ("1d", "24h"), ("2 days", "48h"), ("soon", "10s"), ("1.5", "1.5s")] {
            let said = replica(&format!("{{url: 's3://b/a', sync-interval: {wrong}}}"), line);
            one(&said, if line == V03 { "4:42" } else { "5:42" }, &["sync-interval: ", &format!("write `sync-interval: {right}`")]);
        }
        assert_eq!(replica("{url: 's3://b/a', sync-interval: 1h30m}", line), "");
    }
    one(&replica("{url: 's3://b/a', snapshot-interval: 1d}", V03), "4:46", &["write `snapshot-interval: 24h`"]);
    assert_eq!(replica("{url: 's3://b/a', sync-interval: 0s}", V03), "");
    one(&replica("{url: 's3://b/a', sync-interval: 0s}", V05), "5:42", &["refuses", "write `sync-interval: 1s`"]);
    one(&said(&format!("heartbeat-interval: 5s\n{GOOD_05}"), V05), "1:21", &["`heartbeat-interval: 1m`"]);
}

#[test]
fn a_type_of_replica_is_one_that_the_line_has() {
    one(&replica("{url: 'gs://b/a'}", V03), "4:10", &["url: ", "write `url: gcs://…`"]);
    one(&replica("{type: gs, bucket: b}", V03), "4:10", &["write `type: gcs`"]);
    one(&replica("{url: 'gcs://b/a'}", V05), "5:10", &["write `url: gs://…`"]);
    one(&replica("{type: gcs, bucket: b}", V05), "5:10", &["write `type: gs`"]);
    for other in ["nats", "oss", "webdav"] {
        one(&replica(&format!("{{url: '{other}://u:hunter2@b/a'}}"), V03), "4:10", &[other, "s3, gcs, abs, sftp, file"]);
        assert_eq!(replica(&format!("{{url: '{other}://b/a'}}"), V05), "");
    }
    for line in [V03, V05] {
        assert!(replica("{type: S3, bucket: b}", line).contains("write `type: s3`"));
        assert!(replica("{url: b/a}", line).contains("write `url: s3://BUCKET/PATH`"));
        assert!(replica("{path: 's3://b/a'}", line).contains("path: Litestream refuses a URL here; write `url: s3://…`"));
    }
}

#[test]
fn a_url_stands_alone_and_parts_are_whole() {
    for line in [V03, V05] {
        for part in ["path", "bucket"] {
            assert!(
                replica(&format!("{{url: 's3://b/a', {part}: x}}"), line).contains(&format!("{part}: Litestream refuses it beside `url`"))
            );
        }
        let none = [
            ("type: s3", "bucket"),
            ("url: 's3:///a'", "bucket"),
            ("type: sftp, host: h", "user"),
            ("url: 'sftp://h/p'", "user"),
            ("name: x", "path"),
        ];
        for (keys, part) in none {
            let said = replica(&format!("{{{keys}}}"), line);
            assert!(said.contains(&format!("{part}: Litestream refuses this type")) && said.contains(&format!("`{part}: ")), "{said}");
        }
    }
    one(&said(&format!("bucket: b\n{GOOD_05}"), V05), "1:1", &["bucket: ", "remove it here"]);
}

#[test]
fn a_database_has_a_path_and_a_replica() {
    for line in [V03, V05] {
        let socket = if line == V05 { "socket: {enabled: true}\n" } else { "" };
        let key = if line == V05 { "replica: {url: s3://b/a}" } else { "replicas: [{url: s3://b/a}]" };
        assert!(said(&format!("{socket}dbs:\n  - {key}\n"), line).contains("path: this entry of `dbs:` names no database"));
        let none = said(&format!("{socket}dbs:\n  - path: /d/a.db\n"), line);
        one(&none, if line == V05 { "3:5" } else { "2:5" }, &["has none", if line == V05 { "`replica: {" } else { "`replicas: [{" }]);
        assert!(said(&format!("{socket}dbs:\n  - path: /d/a.db\n    replicas: []\n"), line).contains("the list is empty"));
    }
    let dir = "socket: {enabled: true}\ndbs: [{dir: /d, replica: {url: 's3://b/a'}}]";
    one(&said(dir, V05), "2:8", &["pattern: \"*.db\""]);
    one(&said(&dir.replace("dir:", "path: /x, dir:"), V05), "2:18", &["remove one of the two"]);
    assert!(said(&dir.replace("socket: {enabled: true}\n", ""), V03).contains("dir: Litestream 0.3 ignores it"));
}

#[test]
fn what_litestream_crashes_on_is_said() {
    one(&said(&format!("logging: {{type: pretty}}\n{GOOD_03}"), V03), "1:11", &["crashes", "`type: text`"]);
    for (line, good) in [(V03, GOOD_03), (V05, GOOD_05)] {
        one(&said(&format!("logging: {{type: jsn}}\n{good}"), line), "1:11", &["`type: json`"]);
        assert!(said("dbs:\n  -\n", line).contains("crashes on an empty entry"));
    }
}

#[test]
fn litestream_05_needs_its_socket_for_the_last_sync() {
    let without = GOOD_05.replace("socket: {enabled: true}\n", "");
    one(&said(&without, V05), "1:1", &["`socket: {enabled: true}`"]);
    one(&said(&format!("{without}socket: {{path: /run/s}}\n"), V05), "2:1", &["`socket: {enabled: true}`"]);
    assert!(said(&format!("socket: {{enabled: true}}\n{GOOD_03}"), V03).contains("socket: only Litestream 0.5 knows it"));
}

#[test]
fn a_metrics_address_has_a_port() {
    for (line, good) in [(V03, GOOD_03), (V05, GOOD_05)] {
        for (wrong, right) in [("9090", ":9090"), ("localhost", "localhost:9090"), ("'localhost:'", "localhost:9090")] {
            one(&said(&format!("addr: {wrong}\n{good}"), line), "1:1", &["no port", &format!("`addr: \"{right}\"`")]);
        }
        for fine in ["':9090'", "0.0.0.0:9090", "'[::1]:9090'"] {
            assert_eq!(said(&format!("addr: {fine}\n{good}"), line), "", "{fine}");
        }
    }
}

#[test]
fn what_05_refuses_for_other_reasons_is_said() {
    for (top, write) in [
        ("heartbeat-url: hunter2", "`heartbeat-url: https://…`"),
        ("levels: [{}]", "`interval: 30s`"),
        ("levels: [5m]", "`- key: …`"),
        ("l0-retention: -1s", "`l0-retention: 5m`"),
        ("part-size: lots", "`part-size: 5MB`"),
    ] {
        let said = said(&format!("{top}\n{GOOD_05}"), V05);
        assert!(said.contains(write) && !said.contains("hunter2") && said.lines().count() == 1, "{said}");
    }
    one(&said(&GOOD_05.replace("path:", "watch: true, path:"), V05), "2:8", &["watch: ", "remove it"]);
    one(&said(&GOOD_05.replace("path:", "meta-dir: /m, path:"), V05), "2:8", &["meta-dir: ", "`meta-path: …`"]);
    assert_eq!(said(&format!("part-size: 10 MiB\nl0-retention: 0s\n{GOOD_05}"), V05), "");
}

#[test]
fn encryption_that_05_refuses_is_said_without_the_key() {
    let keys = "{url: 's3://b/a', age: {identities: [AGE-SECRET-KEY-1HUNTER2]}}";
    assert_eq!(replica(keys, V03), "");
    let said = replica(keys, V05);
    one(&said, "5:27", &["age: ", "cannot encrypt"]);
    assert!(!said.contains("HUNTER2"));
}

#[test]
fn of_a_key_that_stands_twice_the_last_one_counts() {
    for line in [V03, V05] {
        let said = replica("url: s3://b/a\n        url: s3://b/b", line);
        assert!(line == V03 || said.contains("6:9: url: stands twice here and the last one counts; remove the one in line 5"), "{said}");
    }
    one(&said("dbs: []\ndbs: [{path: /d/a.db, replicas: [{url: s3://b/a}]}]", V03), "2:1", &["line 1"]);
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_by_litestream() {
    for line in [V03, V05] {
        for (keys, write) in [
            ("skip-verify: 'true'", "`skip-verify: true`"),
            ("skip-verify: maybe", "`skip-verify: true`"),
            ("region: [a]", "`region: …`"),
            ("password: {hunter2: x}", "`password: …`"),
        ] {
            let said = replica(&format!("{{url: 's3://b/a', {keys}}}"), line);
            assert!(said.contains(write) && !said.contains("hunter2"), "{said}");
        }
        assert!(
            said("dbs:\n  - path: /d/a.db\n    replicas: {url: s3://b/a}\n", line)
                .contains("replicas: it is a list; write `replicas:` and `- `")
        );
        assert!(said("dbs: [{path: /d/a.db, min-checkpoint-page-count: '10'}]", line).contains("`min-checkpoint-page-count: 10`"));
    }
}

#[test]
fn what_is_no_configuration_has_one_finding_that_says_where() {
    for line in [V03, V05] {
        let write = if line == V03 { "replicas: [{" } else { "replica: {" };
        for (text, at) in [("", "1:1"), ("# nothing\n", "1:1"), ("just text", "1:1"), ("\n- a\n", "2:1"), ("{}", "1:1")] {
            one(&said(text, line), at, &["dbs:", write]);
        }
        one(said("socket: {enabled: true}\ndbs:\n", line).lines().last().unwrap_or_default(), "2:1", &["no database"]);
        let broken = said("dbs: [\nsecret: hunter2: x", line);
        one(&broken, "2:1", &["not YAML"]);
        assert!(!broken.contains("hunter2"));
        one(&said("dbs:\n\t- path: /d/a.db\n", line), "2:2", &["spaces instead of the tab"]);
        assert!(said(&format!("{GOOD_03}---\na: b\n"), line).contains("2:1: Litestream reads nothing after this"));
    }
}

#[test]
fn a_text_that_is_made_to_break_a_reader_breaks_nothing() {
    let nested = "[".repeat(20_000);
    let anchors = (1..3000).map(|i| format!("k{i}: &a{i} [*a{}]", i - 1)).collect::<Vec<_>>().join("\n");
    let closed = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for text in [nested, format!("k0: &a0 x\n{anchors}"), closed, "a: &a [*a]".to_owned(), "? {a: b}\n: c".to_owned(), "${".repeat(2000)] {
        found(&text, V03);
        found(&text, V05);
    }
}

/// What a user's secret may look like, and what it must never become part of.
const SECRET: &str = "S3CR3T0f7heU5er";

fn lines() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(KEYS).prop_map(|k| format!("{}: {}", k.name, if is_public(k.name) { "7d" } else { SECRET })),
        prop::sample::select(KEYS).prop_map(|k| format!("{}: ${{X:-{SECRET}}}", k.name)),
        Just(format!("url: sftp://u:{SECRET}@h/p")),
        Just(format!("password: 'a$${SECRET}'")),
        Just(format!("password: a${SECRET}")),
        prop::sample::select(vec!["dbs:", "- path: /d", "replicas:", "replica:", "age:", "- {", "}", "]", "&a", "*a", "<<: *a", "|", "'"])
            .prop_map(str::to_owned),
        "[ :{}\\[\\]$&*!|>'\"%@`#a-z\t-]{0,12}",
    ];
    let line = (0usize..8, piece).prop_map(|(indent, piece)| format!("{}{piece}", " ".repeat(indent)));
    prop::collection::vec(line, 0..14).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_is_too_odd_and_no_secret_is_shown(text in lines()) {
        for line in [V03, V05] {
            for finding in lint(&text, line, &|name| (name == "X" || name == "a").then(|| SECRET.to_owned())) {
                prop_assert!(!finding.what.contains(SECRET), "{}\n{text}", finding.what);
                prop_assert!(finding.line > 0 && finding.column > 0 && !finding.what.contains('\n'));
            }
        }
    }

    #[test]
    fn arbitrary_text_and_bytes_have_findings_at_most(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        for text in [text.as_str(), &String::from_utf8_lossy(&bytes)] {
            for finding in found(text, V05).into_iter().chain(found(text, V03)) {
                prop_assert!(finding.line > 0 && finding.column > 0 && !finding.what.contains('\n'));
            }
        }
    }
}
