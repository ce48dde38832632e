//! How far restores are: a bar each on a terminal, else a line every few seconds; and a file for `docker exec`. Must never
//! fail or delay a restore.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::report::{self, human_size};
use crate::runtime;

/// A restore that is shorter shows nothing.
const AFTER: Duration = Duration::from_millis(700);
const REDRAW: Duration = Duration::from_millis(150);
const SAY_EVERY: Duration = Duration::from_secs(3);
const BAR: usize = 24;

/// All restores of this process.
struct Board {
    rows: Vec<Row>,
    next: u64,
    terminal: bool,
    /// Rows on the terminal, above the cursor.
    drawn: usize,
    drawn_at: Instant,
    said_at: Instant,
    /// Where the state is left for others.
    file: Option<PathBuf>,
}

struct Row {
    id: u64,
    alias: String,
    began: Instant,
    written: u64,
    /// Bytes fetched and bytes to fetch.
    fetched: Option<(u64, u64)>,
}

fn board() -> MutexGuard<'static, Board> {
    static BOARD: OnceLock<Mutex<Board>> = OnceLock::new();
    let now = Instant::now();
    let board = BOARD.get_or_init(|| {
        let terminal = std::io::stderr().is_terminal();
        if terminal {
            // One that is stopped (Ctrl-S) must not stop the restore.
            report::carry();
        }
        Mutex::new(Board { rows: Vec::new(), next: 0, terminal, drawn: 0, drawn_at: now, said_at: now, file: None })
    });
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on the state is also left in that directory.
pub fn leave_in(runtime: &Path) {
    board().file = Some(runtime.join(runtime::PROGRESS_FILE));
}

/// All restores are over: nothing is left of the state.
pub fn finish() {
    let mut board = board();
    board.clear();
    if let Some(file) = board.file.take() {
        let _ = std::fs::remove_file(file);
    }
}

/// One restore's row, for as long as it lives.
#[derive(Debug)]
pub struct Meter {
    id: u64,
    began: Instant,
}

impl Meter {
    /// A restore begins.
    pub fn begin(alias: &str) -> Self {
        let mut board = board();
        let (id, began) = (board.next, Instant::now());
        board.next = board.next.saturating_add(1);
        if board.rows.is_empty() {
            board.said_at = began;
        }
        board.rows.push(Row { id, alias: alias.to_owned(), began, written: 0, fetched: None });
        board.leave();
        Self { id, began }
    }

    /// Whether it has taken so long that somebody is waiting.
    pub fn is_wanted(&self) -> bool {
        self.began.elapsed() > AFTER
    }

    /// So far `written` bytes here, and of how many to fetch so many are fetched.
    pub fn update(&self, written: u64, fetched: Option<(u64, u64)>) {
        let mut board = board();
        if let Some(row) = board.rows.iter_mut().find(|r| r.id == self.id) {
            (row.written, row.fetched) = (written, fetched);
        }
        board.show();
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let mut board = board();
        board.clear();
        board.rows.retain(|r| r.id != self.id);
    }
}

impl Board {
    fn show(&mut self) {
        if self.terminal && self.drawn_at.elapsed() >= REDRAW {
            self.drawn_at = Instant::now();
            self.draw();
            self.leave();
        } else if !self.terminal && self.said_at.elapsed() >= SAY_EVERY {
            self.said_at = Instant::now();
            self.rows.iter().for_each(|row| report::line(row.line()));
            self.leave();
        }
    }

    fn draw(&mut self) {
        report::before_lines(|| board().clear());
        let mut text = self.erasing();
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.bar());
        }
        self.drawn = self.rows.len();
        report::draw(&text);
    }

    /// Other lines may follow.
    fn clear(&mut self) {
        if self.drawn > 0 {
            let text = self.erasing();
            self.drawn = 0;
            report::draw(&text);
        }
    }

    /// To the first row that was drawn, and all from there on is gone (ECMA-48: CUU, ED).
    fn erasing(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", self.drawn) }
    }

    fn leave(&self) {
        if let Some(file) = &self.file {
            let lines: Vec<String> = self.rows.iter().map(Row::line).collect();
            let _ = crate::runtime::write(file, &(lines.join("\n") + "\n"));
        }
    }
}

impl Row {
    fn percent(&self) -> Option<u64> {
        let (done, whole) = self.fetched?;
        // What is fetched is still to be put together and checked.
        Some(done.saturating_mul(100).checked_div(whole)?.min(99))
    }

    fn rate(&self) -> String {
        let bytes = self.fetched.map_or(self.written, |(done, _)| done);
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        format!("{}/s", human_size(bytes.saturating_mul(1000).checked_div(millis).unwrap_or_default()))
    }

    /// `default: restoring, 41 % (12.3 MB of 30.0 MB), 4.1 MB/s`
    fn line(&self) -> String {
        match (self.fetched, self.percent()) {
            (Some((done, whole)), Some(percent)) => {
                format!("{}: restoring, {percent} % ({} of {}), {}", self.alias, human_size(done), human_size(whole), self.rate())
            }
            _ => format!("{}: restoring, {} so far, {}", self.alias, human_size(self.written), self.rate()),
        }
    }

    fn bar(&self) -> String {
        let filled = usize::try_from(self.percent().unwrap_or_default()).unwrap_or_default().saturating_mul(BAR) / 100;
        let bar: String = (0..BAR).map(|at| if at < filled { '█' } else { '░' }).collect();
        let percent = self.percent().map_or_else(|| "  ?".to_owned(), |p| format!("{p:>3}"));
        let alias: String = self.alias.chars().filter(|c| !c.is_control()).take(20).collect();
        let bytes = self.fetched.map_or(self.written, |(done, _)| done);
        format!("{alias:<12} {bar} {percent} %  {:>8} {:>10}", human_size(bytes), self.rate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_far_it_is_and_is_never_done_before_the_end() {
        let mut row = Row { id: 0, alias: "default".into(), began: Instant::now(), written: 12_300_000, fetched: None };
        assert!(row.line().starts_with("default: restoring, 12.3 MB so far, "), "{}", row.line());
        assert!(row.bar().contains("  ? %"));
        row.fetched = Some((30, 60));
        assert!(row.line().starts_with("default: restoring, 50 % (30 B of 60 B), "), "{}", row.line());
        assert_eq!(row.bar().matches('█').count(), BAR / 2);
        row.fetched = Some((90, 60));
        assert_eq!(row.percent(), Some(99));
        row.fetched = Some((0, 0));
        assert_eq!(row.percent(), None);
        assert!(row.bar().chars().count() < 80);
    }
}
