//! What is in a database: every row of every table, not only how many.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::TempDir;

use crate::rows;

/// A database's contents, each row as a hash.
#[derive(PartialEq, Eq)]
pub(crate) struct Contents {
    /// Table → key of the row (its `id` or its place) → hash of all its values.
    tables: BTreeMap<String, BTreeMap<i64, u64>>,
}

impl Contents {
    /// Reads a database that nobody writes to any more and that has to be sound.
    #[track_caller]
    pub(crate) fn of(database: &Path) -> Self {
        match Self::read(database) {
            Ok(contents) => contents,
            Err(why) => panic!("{}: {why}", database.display()),
        }
    }

    /// Reads a database that nobody writes to any more; says what is wrong with it if it is damaged.
    ///
    /// It is read from a copy, with its WAL: a reader that came and went would empty the WAL and so
    /// change what the next start finds.
    pub(crate) fn read(database: &Path) -> Result<Self, String> {
        let scratch = TempDir::with_prefix_in("copy-", parent(database)).expect("a directory");
        let copy = scratch.path().join("copy.db");
        fs::copy(database, &copy).map_err(|error| error.to_string())?;
        let wal = beside(database, "-wal");
        if wal.exists() {
            fs::copy(wal, beside(&copy, "-wal")).expect("a copy of the WAL");
        }
        match Self::read_copy(&copy) {
            Ok((check, contents)) if check == "ok" => Ok(contents),
            Ok((check, _)) => Err(format!("damaged: {check}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the integrity check says, and the contents.
    fn read_copy(database: &Path) -> rusqlite::Result<(String, Self)> {
        let connection = Connection::open(database)?;
        let check = connection.query_row("PRAGMA integrity_check", (), |row| row.get(0))?;
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table' \
                     AND name NOT LIKE '\\_litestream%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        let mut names = connection.prepare(names)?;
        let names = names.query_map((), |row| row.get::<_, String>(0))?;
        let mut tables = BTreeMap::new();
        for name in names {
            let name = name?;
            tables.insert(name.clone(), table(&connection, &name)?);
        }
        Ok((check, Self { tables }))
    }

    /// The writer's highest row, 0 if there is none.
    pub(crate) fn last(&self) -> i64 {
        let rows = self.tables.get("t");
        rows.and_then(BTreeMap::last_key_value).map_or(0, |(id, _)| *id)
    }

    /// What `other` has not, in words; None if both are the same.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        let empty = BTreeMap::new();
        let mut words = Vec::new();
        for name in self.tables.keys().chain(other.tables.keys().filter(|it| !self.tables.contains_key(*it))) {
            let here = self.tables.get(name).unwrap_or(&empty);
            let there = other.tables.get(name).unwrap_or(&empty);
            let missing: Vec<_> = here.keys().filter(|id| !there.contains_key(id)).collect();
            let changed = here.iter().filter(|(id, hash)| there.get(id).is_some_and(|it| it != *hash));
            let changed: Vec<_> = changed.map(|(id, _)| id).collect();
            words.push(format!(
                "{name}: {} rows against {}; {} missing, first {:?}; {} different, first {:?}",
                here.len(),
                there.len(),
                missing.len(),
                missing.first(),
                changed.len(),
                changed.first(),
            ));
        }
        Some(words.join("\n"))
    }

    /// Each table that is not the same in `other`, and how many of its rows, in the words of `verify`.
    pub(crate) fn lacks(&self, other: &Self) -> Vec<String> {
        let lack = |(name, here): (&String, &BTreeMap<i64, u64>)| {
            let Some(there) = other.tables.get(name) else { return Some(format!("table {name}: missing")) };
            let missing = here.keys().filter(|id| !there.contains_key(id)).count();
            let changed = here.iter().filter(|(id, hash)| there.get(id).is_some_and(|it| it != *hash)).count();
            let surplus = there.keys().filter(|id| !here.contains_key(id)).count();
            let counts = [(missing, "missing"), (changed, "changed"), (surplus, "too many")].map(|(count, what)| match count {
                0 => None,
                1 => Some(format!("1 row {what}")),
                _ => Some(format!("{count} rows {what}")),
            });
            let counts: Vec<_> = counts.into_iter().flatten().collect();
            (!counts.is_empty()).then(|| format!("table {name}: {}", counts.join(", ")))
        };
        self.tables.iter().filter_map(lack).collect()
    }

    /// Takes a table out, whose rows were numbered as they came: how many there are without a gap, and whether that is all of them.
    pub(crate) fn take_numbered(&mut self, table: &str) -> (usize, bool) {
        let rows = self.tables.remove(table).unwrap_or_default();
        let whole = rows.keys().zip(1..).take_while(|(id, number)| *id == number).count();
        (whole, whole == rows.len())
    }

    /// Whether these are the rows of a writer that committed rows `1..=last`, neither more nor fewer.
    #[track_caller]
    pub(crate) fn assert_complete_up_to(&self, acknowledged: i64) {
        let last = self.last();
        assert!(last >= acknowledged, "row {acknowledged} was acknowledged, the last one here is {last}");
        let expected = Self { tables: BTreeMap::from([("t".to_owned(), written(last))]) };
        if let Some(difference) = expected.difference(self) {
            panic!("these are not the writer's rows:\n{difference}");
        }
    }
}

/// The rows after the writer's commits `1..=last`.
fn written(last: i64) -> BTreeMap<i64, u64> {
    let mut seeds = BTreeMap::new();
    for id in 1..=last {
        let step = rows::step(id);
        seeds.insert(id, id.cast_unsigned());
        if let Some(row) = step.update
            && let Some(seed) = seeds.get_mut(&row)
        {
            *seed = rows::mix(id, row);
        }
        if let Some(row) = step.delete {
            seeds.remove(&row);
        }
    }
    let hash = |id: i64, seed| {
        let body = rows::body(seed);
        hash_values(&[ValueRef::Integer(id), ValueRef::Text(body.as_bytes())])
    };
    seeds.into_iter().map(|(id, seed)| (id, hash(id, seed))).collect()
}

fn table(connection: &Connection, name: &str) -> rusqlite::Result<BTreeMap<i64, u64>> {
    let mut statement = connection.prepare(&format!("SELECT * FROM \"{name}\""))?;
    let id = statement.column_names().position(|column| column == "id");
    let columns = statement.column_count();
    let mut rows = statement.query(())?;
    let mut hashes = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let place = i64::try_from(hashes.len()).expect("a count");
        let key = id.map_or(place, |column| row.get(column).unwrap_or(place));
        let values: Result<Vec<_>, _> = (0..columns).map(|column| row.get_ref(column)).collect();
        hashes.insert(key, hash_values(&values?));
    }
    Ok(hashes)
}

fn hash_values(values: &[ValueRef<'_>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for value in values {
        match value {
            ValueRef::Null => 0.hash(&mut hasher),
            ValueRef::Integer(number) => (1, number).hash(&mut hasher),
            ValueRef::Real(number) => (2, number.to_bits()).hash(&mut hasher),
            ValueRef::Text(bytes) => (3, bytes).hash(&mut hasher),
            ValueRef::Blob(bytes) => (4, bytes).hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// `PATH-wal` and the like.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("a file in a directory")
}
