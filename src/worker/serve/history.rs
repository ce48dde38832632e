//! Lag and size over the last hour, for the graphs. Must never grow without bound.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::status::{Lag, Overview};

/// What a graph shows.
pub(super) const SPAN: Duration = Duration::from_secs(3600);
/// So many points of a database are kept, and of so many databases.
const POINTS: usize = 400;
const DATABASES: usize = 64;

/// One moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at: SystemTime,
    /// None where it was not known.
    pub(super) lag: Option<Duration>,
    /// Bytes of the database and its WAL.
    pub(super) size: u64,
}

/// By database.
#[derive(Debug, Default)]
pub(super) struct History(HashMap<PathBuf, VecDeque<Point>>);

impl History {
    pub(super) fn add(&mut self, overview: &Overview) {
        self.0.retain(|path, _| overview.databases.iter().any(|d| d.path == *path));
        for database in overview.databases.iter().take(DATABASES) {
            let lag = if let Lag::For(lag) = database.lag { Some(lag) } else { None };
            let size = database.size.unwrap_or_default().saturating_add(database.wal);
            let points = self.0.entry(database.path.clone()).or_default();
            points.push_back(Point { at: overview.at, lag, size });
            let old = |point: &Point| overview.at.duration_since(point.at).is_ok_and(|age| age > SPAN);
            while points.len() > POINTS || points.front().is_some_and(old) {
                points.pop_front();
            }
        }
    }

    pub(super) fn of(&self, database: &Path) -> Vec<Point> {
        self.0.get(database).map(|points| points.iter().copied().collect()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn of_points(path: &Path, points: Vec<Point>) -> Self {
        Self(HashMap::from([(path.to_owned(), points.into())]))
    }
}
