//! The addresses that are called when something is wrong, or all is proved. Must never show more of one than its host.

use ureq::http::Uri;

/// Whether it is a URL that can be called.
pub fn is_url(text: &str) -> bool {
    place(text).is_some()
}

/// Scheme and host, which may be said of it.
pub fn place(text: &str) -> Option<(bool, String)> {
    let uri: Uri = text.trim().parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    Some((scheme == "https", format!("{scheme}://{host}")))
}
