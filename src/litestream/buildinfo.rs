//! Reads a Go program's version out of its file. Must never execute it: `litestream version` costs
//! as much as starting Litestream, at every boot.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Go's linker writes this section ([debug/buildinfo](https://pkg.go.dev/debug/buildinfo)); since
/// Go 1.18 the text stands in it.
const SECTION: &[u8] = b".go.buildinfo";
/// Its text is a few kilobytes; a file that claims more is not read.
const MOST: u64 = 1 << 20;

/// The module path and the version that the build was given (`-X main.Version=…`).
#[derive(Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Whether the program is Litestream.
    pub litestream: bool,
    /// `0.5.17`, without a leading `v`.
    pub version: Option<String>,
}

/// What the file says of itself; nothing where it is not an ELF file of Go's.
pub fn read(path: &Path) -> Option<BuildInfo> {
    let file = File::open(path).ok()?;
    let (offset, size) = section(&file, SECTION)?;
    parse(&String::from_utf8_lossy(&bytes_at(&file, offset, size.min(MOST))?))
}

fn parse(text: &str) -> Option<BuildInfo> {
    let start = text.find("path\t")?;
    let text = text.get(start..)?;
    let litestream = text.starts_with("path\tgithub.com/benbjohnson/litestream/");
    let flagged = text.split_once("main.Version=").map(|(_, rest)| rest);
    // A build by `go install …@v0.5.17` has no such flag, but its module's version.
    let module = text.split_once("mod\tgithub.com/benbjohnson/litestream\tv").map(|(_, rest)| rest);
    let version = flagged.or(module).map(|rest| {
        rest.trim_start_matches('v').chars().take_while(|c| c.is_ascii_alphanumeric() || ".-+".contains(*c)).collect::<String>()
    });
    Some(BuildInfo { litestream, version: version.filter(|v| !v.is_empty()) })
}

/// Offset and size of a section of a 64-bit little-endian ELF file (elf(5)).
fn section(file: &File, name: &[u8]) -> Option<(u64, u64)> {
    let header = bytes_at(file, 0, 64)?;
    if header.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry) = (number(&header, 40, 8)?, number(&header, 58, 2)?);
    let (count, names) = (number(&header, 60, 2)?, number(&header, 62, 2)?);
    if entry < 64 || names >= count {
        return None;
    }
    let table = bytes_at(file, table, entry.checked_mul(count)?.min(MOST))?;
    let width = usize::try_from(entry).ok()?;
    let sections: Vec<&[u8]> = table.chunks_exact(width).collect();
    let place = |s: &[u8]| Some((number(s, 24, 8)?, number(s, 32, 8)?));
    let (names_at, names_size) = place(sections.get(usize::try_from(names).ok()?)?)?;
    let strings = bytes_at(file, names_at, names_size.min(MOST))?;
    let is_named = |s: &&&[u8]| {
        let from = number(s, 0, 4).and_then(|n| usize::try_from(n).ok());
        from.and_then(|n| strings.get(n..)).and_then(|rest| rest.split(|b| *b == 0).next()) == Some(name)
    };
    place(sections.iter().find(is_named)?)
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let slice = bytes.get(at..at.checked_add(width)?)?;
    Some(slice.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

fn bytes_at(file: &File, offset: u64, size: u64) -> Option<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut buffer, offset).ok()?;
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_both_lines_build_flags() {
        let v5 = "\u{8}\u{2}go1.25path\tgithub.com/benbjohnson/litestream/cmd/litestream\nmod\tgithub.com/benbjohnson/litestream\tv0.5.17\t\nbuild\t-ldflags=\"-s -w -X main.Version=0.5.17\"\n";
        let v3 = "path\tgithub.com/benbjohnson/litestream/cmd/litestream\nbuild\t-ldflags=\"-s -X 'main.Version=v0.3.13'\"\n";
        let installed = "path\tgithub.com/benbjohnson/litestream/cmd/litestream\nmod\tgithub.com/benbjohnson/litestream\tv0.5.16\th1:x\n";
        for (text, version) in [(v5, "0.5.17"), (v3, "0.3.13"), (installed, "0.5.16")] {
            assert_eq!(parse(text), Some(BuildInfo { litestream: true, version: Some(version.into()) }));
        }
    }

    #[test]
    fn another_program_is_not_taken_for_litestream() {
        assert_eq!(parse("path\texample.com/other\n"), Some(BuildInfo { litestream: false, version: None }));
        assert_eq!(read(Path::new("/bin/sh")), None);
        assert_eq!(read(Path::new("/etc/passwd")), None);
    }
}
