//! Litestream's complaint about a replica: whether trying again may help, and what usually helps. Must never guess that
//! something is permanent: what is not known is tried again.

/// Whether trying again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may pass.
    Temporary,
    /// It stays so until somebody changes the configuration or the storage.
    Permanent,
    /// A file of the backup is broken or missing, unless a connection broke in the middle of one.
    Damaged,
    /// The disk here is full.
    NoRoom,
    /// Litestream does not take its configuration.
    Refused,
    /// What Litestream is made with (Go) cannot start in this place.
    NoStart,
}

/// What a complaint means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether trying again may help.
    pub kind: Kind,
    /// What usually helps.
    pub hint: Option<&'static str>,
}

type Row = (&'static [&'static str], Kind, &'static str);

use Kind::{Damaged, NoRoom, Permanent, Refused, Temporary};

/// What both lines say of files that are cut short, changed or missing, of a real backup that was damaged in eighteen ways each.
const DAMAGE: [&str; 11] = [
    "decode database:",
    "invalid ltx file",
    "invalid LTX file",
    "checksum mismatch",
    "non-contiguous ltx files",
    "nonsequential page numbers",
    "lz4: ",
    "cannot restore snapshot: ",
    "cannot download wal ",
    "no snapshots available",
    "is malformed",
];

/// The first row with a word that was said. The words are AWS's, Go's and the clients' own, as both lines print them.
const TABLE: [Row; 21] = [
    (
        &[
            "failed to reserve page summary memory",
            "out of memory allocating",
            "runtime: cannot allocate memory",
            "fatal error: newosproc",
            "pthread_create failed",
        ],
        Kind::NoStart,
        "",
    ),
    (&["no space left on device", "disk quota exceeded"], NoRoom, ""),
    (&["age encryption is not currently supported"], Refused, "let the bucket encrypt, or run Litestream 0.3.13"),
    (
        &["malformed secret key", "malformed recipient", "unknown identity type", "unknown recipient type", "no secret keys found"],
        Refused,
        "correct the identities and recipients of `age`",
    ),
    // Before what it is wrapped in, which looks like damage: it is none, and no older point is gone back to for it.
    (
        &["no flags allowed, reserved for future use"],
        Permanent,
        "the backup was written by Litestream 0.5.16 or later, whose files this release cannot read: run that one",
    ),
    (&DAMAGE, Damaged, ""),
    (&["InvalidAccessKeyId"], Permanent, "the storage does not know this key id: check the key and the endpoint"),
    (&["SignatureDoesNotMatch"], Permanent, "the secret does not belong to this key id"),
    (
        &["NoSuchBucket", "bucket does not exist"],
        Permanent,
        "there is no such bucket at this endpoint: check its name, region and endpoint",
    ),
    (&["RequestTimeTooSkewed"], Temporary, "this machine's clock is wrong"),
    (
        &["AuthorizationHeaderMalformed", "PermanentRedirect", "StatusCode: 301", "status code: 301"],
        Permanent,
        "the bucket is in another region: set LITESTREAM_REPLICA_REGION",
    ),
    (
        &["AccessDenied", "StatusCode: 403", "status code: 403", "403 Forbidden"],
        Permanent,
        "the key may not read there: it needs to list and get objects",
    ),
    (&["401 Unauthorized", "Authorization Violation"], Permanent, "the server does not take this user and password"),
    (&["HTTP response to HTTPS client"], Permanent, "the endpoint speaks plain HTTP: write it with http://"),
    (
        &["x509:", "certificate signed by unknown authority", "failed to verify certificate"],
        Permanent,
        "the server's certificate is not trusted: hand its authority over in AWS_CA_BUNDLE or SSL_CERT_FILE",
    ),
    (&["unable to authenticate"], Permanent, "the SFTP server takes neither this password nor this key"),
    (&["host key mismatch"], Permanent, "LITESTREAM_REPLICA_HOST_KEY is not the key that the server shows"),
    (
        &["could not find default credentials"],
        Permanent,
        "set GOOGLE_APPLICATION_CREDENTIALS, or its text in GOOGLE_APPLICATION_CREDENTIALS_JSON",
    ),
    (
        &["NoCredentialProviders", "failed to refresh cached credentials", "get credentials"],
        Permanent,
        "there are no keys: set LITESTREAM_ACCESS_KEY_ID and LITESTREAM_SECRET_ACCESS_KEY",
    ),
    (&["no such host"], Temporary, "the endpoint's name does not resolve"),
    (&["connection refused"], Temporary, "nothing listens at the endpoint"),
];

/// What Litestream's output means.
pub fn judge(said: &str) -> Verdict {
    match TABLE.iter().find(|(words, ..)| words.iter().any(|word| said.contains(word))) {
        Some((_, kind, hint)) => Verdict { kind: *kind, hint: Some(*hint).filter(|hint| !hint.is_empty()) },
        None => Verdict { kind: Temporary, hint: None },
    }
}

/// Whether it may be a complaint about who asks, which another secret could mend: a wrong guess costs a try with that one.
pub fn is_denied(said: &str) -> bool {
    const WORDS: [&str; 8] = ["401", "403", "uthenticat", "uthoriz", "orbidden", "enied", "invalid_grant", "credential"];
    judge(said).kind == Kind::Permanent || WORDS.iter().any(|word| said.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What 0.5.17, 0.5.12 and 0.3.13 said of a real server, or of none.
    const SAID: [(&str, Kind, &str); 15] = [
        (
            "operation error S3: ListObjectsV2, https response error StatusCode: 403, RequestID: 18EB, HostID: , api error InvalidAccessKeyId: The access key ID you provided does not exist in our records.",
            Permanent,
            "key id",
        ),
        (
            "cannot fetch generations: SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided.\\n\\tstatus code: 403",
            Permanent,
            "secret",
        ),
        ("cannot fetch generations: NoSuchBucket: The specified bucket does not exist\\n\\tstatus code: 404", Permanent, "bucket"),
        (
            "s3: list generations: operation error S3: ListObjectsV2, https response error StatusCode: 403, api error AccessDenied: Access Denied.",
            Permanent,
            "may not read",
        ),
        ("caused by: Get \"https://127.0.0.1:18333/test\": http: server gave HTTP response to HTTPS client", Permanent, "plain HTTP"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", Temporary, "nothing listens"),
        ("dial tcp: lookup no.such.host.invalid on 10.0.0.1:53: no such host", Temporary, "resolve"),
        ("https response error StatusCode: 503, api error SlowDown: Please reduce your request rate.", Temporary, ""),
        (
            "Error: decode database: decode page 1: read page header 0: no flags allowed, reserved for future use",
            Permanent,
            "0.5.16 or later",
        ),
        ("Error: decode database: decode page 1039: read page header 3: read compressed data: unexpected EOF", Damaged, ""),
        ("Error: invalid ltx file: level=0 min=0000000000000005 max=0000000000000005 has size 0 bytes (minimum 100)", Damaged, ""),
        ("Error: cannot calc restore plan: non-contiguous ltx files: have up to 03 but next file starts at 05", Damaged, ""),
        ("error=\"cannot download wal 97c593a864339cab/00000000: lz4: invalid frame checksum: got 85db6bd0\"", Damaged, ""),
        ("error=\"cannot find snapshot index by timestamp: no snapshots available\"", Damaged, ""),
        ("Error: decode database: write page 513: write tm/o.db.tmp: no space left on device", NoRoom, ""),
    ];

    #[test]
    fn what_stays_wrong_is_told_from_what_may_pass() {
        for (said, kind, hint) in SAID {
            let verdict = judge(said);
            assert_eq!(verdict.kind, kind, "{said}");
            assert!(verdict.hint.unwrap_or_default().contains(hint), "{said}: {verdict:?}");
        }
        assert_eq!(judge("something new"), Verdict { kind: Temporary, hint: None });
    }

    #[test]
    fn what_another_secret_could_mend_is_told_from_what_none_could() {
        for denied in [
            "api error SignatureDoesNotMatch: The request signature",
            "RESPONSE 403: 403 Server failed to authenticate the request",
            "ssh: handshake failed: ssh: unable to authenticate",
            "nats: Authorization Violation",
            "oauth2: \"invalid_grant\"",
            "401 Unauthorized",
        ] {
            assert!(is_denied(denied), "{denied}");
        }
        for other in ["dial tcp: connection refused", "no space left on device", "its last pass still had something to write", ""] {
            assert!(!is_denied(other), "{other}");
        }
    }
}
