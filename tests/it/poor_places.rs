//! Places that give less than the usual: limits, kernel facilities that are missing or refused, streams that take nothing.

use std::fs;

use crate::support::container::Recipe;
use crate::support::site::Site;
use crate::support::{Line, namespaces};

/// Behind these words of the shell's.
fn after(recipe: Recipe, words: &str) -> Recipe {
    recipe.behind(&["sh", "-c", &format!("{words} exec \"$@\""), "sh"])
}

#[test]
fn a_log_at_its_size_limit_is_no_signal_to_the_app() {
    if !namespaces() {
        return;
    }
    let site = Site::new(Line::V05);
    let plain = site.recipe().without("DATABASE_PATH").without("LITESTREAM_REPLICA_URL");
    let (code, container) =
        after(plain.shell(&format!("echo ran > /dev/null; : > {}; sleep 0.3", site.path("ran").display())), "ulimit -f 0;").run();
    assert_eq!((code, container.stderr()), (0, String::new()));
    assert!(fs::metadata(site.path("ran")).is_ok());
}
