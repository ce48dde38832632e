//! The kinds of replica that Litestream has, a row each. Must never be told apart by their names anywhere else.

use std::path::Path;

use super::Format;
use super::schema::For;

/// Where a replica can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaKind {
    /// S3, and what speaks its language.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Abs,
    /// A host, by SFTP.
    Sftp,
    /// A directory here.
    File,
    /// NATS' object store.
    Nats,
    /// `WebDAV`.
    Webdav,
    /// Alibaba's.
    Oss,
}

/// What there is to know of a kind.
#[derive(Debug)]
pub struct Row {
    /// In `type:` and before a URL's `://`.
    pub name: &'static str,
    /// The same in 0.3; none where that does not have it.
    pub old_name: Option<&'static str>,
    /// What else a URL may begin with.
    pub other_scheme: Option<&'static str>,
    /// What a URL says of its place: refused beside one.
    pub place: &'static [&'static str],
    /// What it cannot be without.
    pub needs: &'static [&'static str],
    /// That, as it is written.
    pub example: &'static str,
    /// The keys that are not every kind's.
    pub keys: Option<For>,
    /// Whether it has an endpoint; Google's, a file's and a host's are none.
    pub has_endpoint: bool,
    /// Whether a bucket's name says where it is.
    pub in_bucket: bool,
    /// The variables of its keys, where replicas without keys of their own share some.
    pub credentials: Option<&'static str>,
}

const S3_KEYS: &str = "LITESTREAM_ACCESS_KEY_ID and LITESTREAM_SECRET_ACCESS_KEY";

/// In a bucket, by S3.
const S3: Row = Row {
    name: "s3",
    old_name: Some("s3"),
    other_scheme: None,
    place: &["path", "bucket"],
    needs: &["bucket"],
    example: "bucket: BUCKET",
    keys: Some(For::S3),
    has_endpoint: true,
    in_bucket: true,
    credentials: Some(S3_KEYS),
};
const GS: Row =
    Row { name: "gs", old_name: Some("gcs"), keys: None, has_endpoint: false, credentials: Some("GOOGLE_APPLICATION_CREDENTIALS"), ..S3 };
const ABS: Row = Row { name: "abs", old_name: Some("abs"), keys: Some(For::Abs), credentials: Some("LITESTREAM_AZURE_ACCOUNT_KEY"), ..S3 };
const OSS: Row = Row { name: "oss", old_name: None, ..S3 };
/// In a directory.
const FILE: Row = Row {
    name: "file",
    old_name: Some("file"),
    other_scheme: None,
    place: &["path"],
    needs: &["path"],
    example: "path: /backup/app.db",
    keys: None,
    has_endpoint: false,
    in_bucket: false,
    credentials: None,
};
const SFTP: Row = Row {
    name: "sftp",
    old_name: Some("sftp"),
    place: &["path", "host"],
    needs: &["host", "user"],
    example: "host: HOST:22` and `user: USER",
    keys: Some(For::Sftp),
    ..FILE
};
/// Its URL has the server in the host's place, and the bucket in the path's.
const NATS: Row =
    Row { name: "nats", old_name: None, place: &[], needs: &["bucket"], example: "bucket: BUCKET", keys: Some(For::Nats), ..FILE };
const WEBDAV: Row = Row {
    name: "webdav",
    old_name: None,
    other_scheme: Some("webdavs"),
    place: &["path", "webdav-url"],
    needs: &["webdav-url"],
    example: "webdav-url: https://HOST",
    keys: Some(For::Webdav),
    ..FILE
};

impl ReplicaKind {
    /// Each of them, as lists have them.
    pub const ALL: [Self; 8] = [Self::S3, Self::Gs, Self::Abs, Self::Sftp, Self::File, Self::Nats, Self::Webdav, Self::Oss];

    /// What there is to know of it.
    pub fn row(self) -> &'static Row {
        match self {
            Self::S3 => &S3,
            Self::Gs => &GS,
            Self::Abs => &ABS,
            Self::Sftp => &SFTP,
            Self::File => &FILE,
            Self::Nats => &NATS,
            Self::Webdav => &WEBDAV,
            Self::Oss => &OSS,
        }
    }

    /// As either line names it, or a URL begins.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| {
            let row = kind.row();
            row.name == text || [row.old_name, row.other_scheme].contains(&Some(text))
        })
    }

    /// As this program names it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// As a line that has it names it.
    pub fn name_in(self, format: Format) -> Option<&'static str> {
        match format {
            Format::Generations => self.row().old_name,
            Format::Ltx => Some(self.row().name),
        }
    }

    /// The names of all that a line has.
    pub fn names_in(format: Format) -> Vec<&'static str> {
        Self::ALL.into_iter().filter_map(|kind| kind.name_in(format)).collect()
    }

    /// Whether a replica of this kind takes a key that is for those.
    pub fn takes(self, of: For, key: &str) -> bool {
        match of {
            For::Any => key != "endpoint" || self.row().has_endpoint,
            of => self.row().keys == Some(of),
        }
    }
}

/// Where a replica is that is a directory here, by how it is shown.
pub fn folder(replica: &str) -> Option<&Path> {
    replica.strip_prefix("file://").map(Path::new).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_by_each_of_its_names_and_by_no_other() {
        for kind in ReplicaKind::ALL {
            for format in [Format::Generations, Format::Ltx] {
                assert!(kind.name_in(format).is_none_or(|name| ReplicaKind::parse(name) == Some(kind)), "{kind:?}");
            }
        }
        assert_eq!(ReplicaKind::parse("webdavs"), Some(ReplicaKind::Webdav));
        assert_eq!(ReplicaKind::parse("S3"), None);
        assert_eq!(ReplicaKind::names_in(Format::Generations), ["s3", "gcs", "abs", "sftp", "file"]);
    }

    #[test]
    fn a_folder_is_an_absolute_path() {
        assert_eq!((folder("file:///r/a"), folder("s3://b/a"), folder("file://r")), (Some(Path::new("/r/a")), None, None));
    }
}
