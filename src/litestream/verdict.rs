//! Litestream's complaint about a replica: whether trying again may help, and what usually helps. Must never guess that
//! something is permanent: what is not known is tried again.

/// What a complaint means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It stays so until somebody changes the configuration or the storage.
    pub permanent: bool,
    /// What usually helps.
    pub hint: Option<&'static str>,
}

type Row = (&'static [&'static str], bool, &'static str);

/// The first row with a word that was said. The words are AWS's, Go's and the clients' own, as both lines print them.
const TABLE: [Row; 15] = [
    (&["InvalidAccessKeyId"], true, "the storage does not know this key id: check the key and the endpoint"),
    (&["SignatureDoesNotMatch"], true, "the secret does not belong to this key id"),
    (&["NoSuchBucket", "bucket does not exist"], true, "there is no such bucket at this endpoint: check its name, region and endpoint"),
    (&["RequestTimeTooSkewed"], false, "this machine's clock is wrong"),
    (
        &["AuthorizationHeaderMalformed", "PermanentRedirect", "StatusCode: 301", "status code: 301"],
        true,
        "the bucket is in another region: set LITESTREAM_REPLICA_REGION",
    ),
    (
        &["AccessDenied", "StatusCode: 403", "status code: 403", "403 Forbidden"],
        true,
        "the key may not read there: it needs to list and get objects",
    ),
    (&["401 Unauthorized", "Authorization Violation"], true, "the server does not take this user and password"),
    (&["HTTP response to HTTPS client"], true, "the endpoint speaks plain HTTP: write it with http://"),
    (
        &["x509:", "certificate signed by unknown authority", "failed to verify certificate"],
        true,
        "the server's certificate is not trusted: hand its authority over in AWS_CA_BUNDLE or SSL_CERT_FILE",
    ),
    (&["unable to authenticate"], true, "the SFTP server takes neither this password nor this key"),
    (&["host key mismatch"], true, "LITESTREAM_REPLICA_HOST_KEY is not the key that the server shows"),
    (
        &["could not find default credentials"],
        true,
        "set GOOGLE_APPLICATION_CREDENTIALS, or its text in GOOGLE_APPLICATION_CREDENTIALS_JSON",
    ),
    (
        &["NoCredentialProviders", "failed to refresh cached credentials", "get credentials"],
        true,
        "there are no keys: set LITESTREAM_ACCESS_KEY_ID and LITESTREAM_SECRET_ACCESS_KEY",
    ),
    (&["no such host"], false, "the endpoint's name does not resolve"),
    (&["connection refused"], false, "nothing listens at the endpoint"),
];

/// What Litestream's output means.
pub fn judge(said: &str) -> Verdict {
    match TABLE.iter().find(|(words, ..)| words.iter().any(|word| said.contains(word))) {
        Some((_, permanent, hint)) => Verdict { permanent: *permanent, hint: Some(hint) },
        None => Verdict { permanent: false, hint: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What 0.5.17 and 0.3.13 said of a real server, or of none.
    const SAID: [(&str, bool, &str); 8] = [
        (
            "operation error S3: ListObjectsV2, https response error StatusCode: 403, RequestID: 18EB, HostID: , api error InvalidAccessKeyId: The access key ID you provided does not exist in our records.",
            true,
            "key id",
        ),
        (
            "cannot fetch generations: SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided.\\n\\tstatus code: 403",
            true,
            "secret",
        ),
        ("cannot fetch generations: NoSuchBucket: The specified bucket does not exist\\n\\tstatus code: 404", true, "bucket"),
        (
            "s3: list generations: operation error S3: ListObjectsV2, https response error StatusCode: 403, api error AccessDenied: Access Denied.",
            true,
            "may not read",
        ),
        ("caused by: Get \"https://127.0.0.1:18333/test\": http: server gave HTTP response to HTTPS client", true, "plain HTTP"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", false, "nothing listens"),
        ("dial tcp: lookup no.such.host.invalid on 10.0.0.1:53: no such host", false, "resolve"),
        ("https response error StatusCode: 503, api error SlowDown: Please reduce your request rate.", false, ""),
    ];

    #[test]
    fn what_stays_wrong_is_told_from_what_may_pass() {
        for (said, permanent, hint) in SAID {
            let verdict = judge(said);
            assert_eq!(verdict.permanent, permanent, "{said}");
            assert!(verdict.hint.unwrap_or_default().contains(hint), "{said}: {verdict:?}");
        }
        assert_eq!(judge("something new"), Verdict { permanent: false, hint: None });
    }
}
